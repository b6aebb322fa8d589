//! Flags of version 0.1 under their old names: refused with the new one.

use std::ffi::OsString;

const RENAMED: [(&str, &str); 5] = [
    ("--late-death", "--attribution-window"),
    ("--longest-pause", "--max-pause"),
    ("--stay", "--keep-serving"),
    ("--vm-labels", "--per-vm-metrics"),
    ("--without", "--disable-attach-type"),
];

/// The message for the first renamed flag among the arguments.
pub fn flag(arguments: impl IntoIterator<Item = OsString>) -> Option<String> {
    arguments
        .into_iter()
        .take_while(|argument| argument != "--")
        .find_map(|argument| {
            let argument = argument.into_string().ok()?;
            let name = argument.split('=').next()?;
            let (old, new) = RENAMED.iter().find(|(old, _)| *old == name)?;
            Some(format!("{old} is now {new}: rename it"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(arguments: &[&str]) -> Option<String> {
        flag(arguments.iter().map(OsString::from))
    }

    #[test]
    fn an_old_flag_is_refused_with_its_new_name() {
        assert_eq!(
            message(&["poisontrace", "run", "--late-death=60"]).unwrap(),
            "--late-death is now --attribution-window: rename it"
        );
        assert!(message(&["poisontrace", "replay", "--stay", "--from", "x"]).is_some());
        assert_eq!(
            message(&["poisontrace", "run", "--attribution-window", "60"]),
            None
        );
        assert_eq!(message(&["poisontrace", "explain", "--", "--stay"]), None);
    }
}
