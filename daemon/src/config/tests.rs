use std::{fs, path::Path};

use toml::Value;

use super::{
    Config, HookEvent, Layers, LogLevel, layers,
    layers::{keys, parse, table_of},
    needs_restart,
};

const SHIPPED: &str = include_str!("../../packaging/poisontrace.toml");

/// The shipped file's keys are comments: what holds is the program's default, also after an upgrade.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if is_key(rest) => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default_and_nothing_else() {
    let shown: toml::Table = uncommented().parse().unwrap();
    assert_eq!(shown, table_of(&Config::default()));
    assert_eq!(parse(SHIPPED).unwrap(), Config::default());
}

#[test]
fn every_key_of_the_shipped_file_is_explained_above_it() {
    let text = uncommented();
    let lines: Vec<&str> = text.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if !line.starts_with('#') && line.contains(" = ") {
            assert!(lines[n - 1].starts_with("# "), "{line}");
        }
    }
}

#[test]
fn every_key_is_either_reloaded_or_named_as_needing_a_restart() {
    let old = Config::default();
    let mut new = old.clone();
    new.web.config_file = "/else".into();
    new.log.level = LogLevel::Debug;
    new.hook.timeout_seconds = 3;
    assert_eq!(needs_restart(&old, &new), ["web.config_file"]);
    assert!(needs_restart(&old, &old).is_empty());
}

#[test]
fn an_unknown_key_is_an_error_with_its_line_and_the_nearest_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("poisontrace.toml");
    let problem = |text: &str| {
        fs::write(&file, text).unwrap();
        layers::read_file(&file)
            .unwrap_err()
            .to_string()
            .rsplit_once("poisontrace.toml")
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(
        problem("[log]\nlevel = \"info\"\n[web]\nlisten_adress = \"\"\n"),
        ":4: unknown key web.listen_adress; did you mean web.listen_address?"
    );
    assert_eq!(
        problem("[hok]\ncommand = []\n"),
        ":1: unknown key hok; did you mean hook?"
    );
    assert_eq!(
        problem("\ntimeout_seconds = 1\n"),
        ":2: unknown key timeout_seconds; did you mean hook.timeout_seconds?"
    );
    assert!(problem("[log]\nlevel = \"loud\"\n").starts_with(":2: unknown variant `loud`"));
    assert!(problem("[web]\nlisten_address = \"localhost\"\n").contains("127.0.0.1:9847"));
    assert!(problem("state_dir = \n").starts_with(":1: "));
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("poisontrace.toml");
    fs::write(
        &file,
        "state_dir = \"/file\"\n[log]\nlevel = \"warn\"\n[hook]\ntimeout_seconds = 3\n",
    )
    .unwrap();
    let mut layers = Layers {
        file: Some(file),
        ..Layers::default()
    };
    let environment = |name: &str| match name {
        "POISONTRACE_STATE_DIR" => Some("/environment".to_owned()),
        "POISONTRACE_LOG_LEVEL" => Some("debug".to_owned()),
        "POISONTRACE_HOOK_ON" => Some("[\"close\"]".to_owned()),
        _ => None,
    };
    layers.flag("state_dir", Some("/flag"));
    layers.flag("log.level", None::<Value>);
    let config = layers.read_with(environment).unwrap();
    assert_eq!(config.state_dir, Path::new("/flag"));
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.hook.timeout_seconds, 3);
    assert_eq!(config.hook.on, [HookEvent::Close]);
    assert_eq!(config.metrics.max_vms, 100);
}

#[test]
fn a_wrong_variable_or_a_named_file_that_is_not_there_is_named() {
    let wrong = Layers::default()
        .read_with(|name| (name == "POISONTRACE_METRICS_VM_LABELS").then(|| "maybe".to_owned()))
        .unwrap_err();
    assert!(
        wrong.to_string().contains("POISONTRACE_METRICS_VM_LABELS"),
        "{wrong}"
    );
    let absent = Layers {
        file: Some("/no/such/file".into()),
        ..Layers::default()
    };
    assert!(
        absent
            .read()
            .unwrap_err()
            .to_string()
            .starts_with("/no/such/file: ")
    );
}

#[test]
fn a_misspelt_variable_of_a_section_is_refused_and_a_hooks_is_not() {
    let names = |name: &str| std::iter::once(name.to_owned());
    let wrong = layers::misspelt(names("POISONTRACE_WEB_LISTEN_ADRESS")).unwrap_err();
    assert!(
        wrong
            .to_string()
            .contains("POISONTRACE_WEB_LISTEN_ADRESS: there is no such setting"),
        "{wrong}"
    );
    let known = keys().into_iter().map(|key| layers::variable(&key));
    let of_a_hook = [
        "POISONTRACE_INCIDENT",
        "POISONTRACE_EVENT",
        "POISONTRACE_VM",
        "POISONTRACE_RUN",
    ]
    .map(str::to_owned);
    layers::misspelt(known.chain(of_a_hook)).unwrap();
}

#[test]
fn every_key_has_a_variable_of_its_own() {
    let mut names: Vec<String> = keys().iter().map(|key| layers::variable(key)).collect();
    assert!(names.contains(&"POISONTRACE_WEB_LISTEN_ADDRESS".to_owned()));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), keys().len());
}

#[test]
fn an_old_key_is_refused_with_its_new_name() {
    let (_, problem) = parse("[incident]\nlate_death_seconds = 60\n").unwrap_err();
    assert_eq!(
        problem,
        "incident.late_death_seconds is now incident.attribution_window_seconds: rename it"
    );
    let old = |name: &str| (name == "POISONTRACE_METRICS_VM_LABELS").then(|| "true".to_owned());
    assert_eq!(
        Layers::default().read_with(old).unwrap_err().to_string(),
        "environment variable POISONTRACE_METRICS_VM_LABELS: it is now POISONTRACE_METRICS_PER_VM: rename it"
    );
}
