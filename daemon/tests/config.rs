//! `poisontrace config check`, as an operator runs it.

mod common;

use std::{ffi::OsStr, fs, path::Path, process::Output};

use common::poisontrace;

fn check(file: &Path) -> Output {
    poisontrace([OsStr::new("config"), OsStr::new("check"), file.as_os_str()])
}

#[test]
fn the_shipped_configuration_is_valid() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/poisontrace.toml");
    let output = check(&shipped);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("in order\n"));
}

#[test]
fn a_misspelt_key_is_refused_in_one_line_with_a_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, "[web]\nlisten_adress = \"127.0.0.1:1\"\n").unwrap();
    let output = check(&file);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("p.toml:2: unknown key web.listen_adress; did you mean web.listen_address?"));
}

#[test]
fn a_hook_that_cannot_be_run_is_reported_with_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, "[hook]\ncommand = [\"/no/such/program\"]\n").unwrap();
    let output = check(&file);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hook.command: /no/such/program"));
}

#[test]
fn pages_that_run_would_refuse_to_serve_are_reported_with_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("poisontrace.toml");
    for (address, status) in [("0.0.0.0:1", 1), ("127.0.0.1:1", 0)] {
        fs::write(
            &file,
            format!("[web]\nincidents = true\nlisten_address = \"{address}\"\n"),
        )
        .unwrap();
        let output = check(&file);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let refused = String::from_utf8_lossy(&output.stderr).contains("without TLS and a user");
        assert_eq!(refused, status == 1, "{output:?}");
    }
}

#[test]
fn the_configuration_names_the_store_unless_a_flag_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, format!("state_dir = \"{}/else\"\n", dir.path().display())).unwrap();
    let output = poisontrace(["incidents", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("/else"),
        "{output:?}"
    );
}

#[test]
fn a_missing_file_is_reported_with_the_remedy() {
    for (arguments, next) in [
        (["incidents", "--config", "/no/such.toml"], "--config"),
        (["replay", "--from", "/no/such.ptrace"], "poisontrace record -o"),
    ] {
        let output = poisontrace(arguments);
        assert_eq!(output.status.code(), Some(2));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("/no/such") && stderr.contains(next), "{stderr}");
    }
}
