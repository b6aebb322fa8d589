use super::*;
use poisontrace_model::{correlate::report::incident, event::session::Session, incident::evidence::Evidence};

fn named(name: &str) -> Incident {
    let mut evidence = Evidence::new(1, 7, Default::default());
    std::sync::Arc::make_mut(&mut evidence.vmm).name = Some(name.to_owned());
    crate::document(incident(&evidence, &Session::default()))
}

#[test]
fn a_guest_whose_name_is_markup_is_shown_and_not_obeyed() {
    let evil = "</title><script>alert(1)</script><img src=//evil/x onerror='x'>\"&amp;";
    let page = html(&Host::default(), &[named(evil)]);
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
}

#[test]
fn the_page_names_no_other_place() {
    let page = html(&Host::default(), &[named("web"), named("db")]);
    for loads in ["http:", "https:", "src=", "@import", "url(", "<link", "<script"] {
        assert!(!page.contains(loads), "{loads}");
    }
}

#[test]
fn no_incident_is_a_page_too() {
    let page = html(&Host::default(), &[]);
    assert!(page.contains("No incident"), "{page}");
}
