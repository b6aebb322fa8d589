//! The DaemonSet's manifest: it parses, and has the rights of the systemd unit, no more and no fewer.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking; its helper functions too"
)]

use std::collections::BTreeSet;

use serde_json::Value;

const MANIFEST: &str = include_str!("../packaging/container/daemonset.yaml");
const IMAGE: &str = include_str!("../packaging/container/Containerfile");
const UNIT: &str = include_str!("../packaging/poisontrace.service");

fn manifest() -> Value {
    serde_saphyr::from_str(MANIFEST).unwrap()
}

fn container(manifest: &Value) -> &Value {
    let containers = manifest["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// `CAP_BPF` of the unit is `BPF` of the manifest.
fn of_the_unit() -> BTreeSet<String> {
    let line = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.unwrap().split_whitespace();
    names
        .map(|name| name.strip_prefix("CAP_").unwrap().to_owned())
        .collect()
}

#[test]
fn the_capabilities_are_those_of_the_unit() {
    let manifest = manifest();
    let rights = &container(&manifest)["securityContext"];
    let added: BTreeSet<String> = rights["capabilities"]["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(added, of_the_unit());
    assert_eq!(added.len(), 5);
    assert_eq!(rights["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(rights["readOnlyRootFilesystem"], true);
    assert_eq!(rights["allowPrivilegeEscalation"], false);
    assert!(rights.get("privileged").is_none());
    let in_image: BTreeSet<String> = IMAGE
        .split("--cap-add=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap()
        .split(',')
        .map(str::to_uppercase)
        .collect();
    assert_eq!(in_image, added, "as the image's example has them");
}

#[test]
fn it_sees_the_hosts_processes_and_has_bpffs_tracefs_and_its_state_and_nothing_else() {
    let manifest = manifest();
    assert_eq!(manifest["kind"], "DaemonSet");
    let pod = &manifest["spec"]["template"]["spec"];
    assert_eq!(pod["hostPID"], true);
    for right in ["hostNetwork", "hostIPC"] {
        assert!(pod.get(right).is_none(), "{right}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    let path_of = |name: &Value| {
        let volume = volumes.iter().find(|volume| volume["name"] == *name);
        volume.unwrap()["hostPath"]["path"].as_str().unwrap().to_owned()
    };
    let mounts = container(&manifest)["volumeMounts"].as_array().unwrap();
    let mounted: BTreeSet<(String, String)> = mounts
        .iter()
        .map(|mount| {
            (
                path_of(&mount["name"]),
                mount["mountPath"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let same = ["/sys/fs/bpf", "/sys/kernel/tracing", "/var/lib/poisontrace"];
    let wanted = same.map(|path| (path.to_owned(), path.to_owned())).into();
    assert_eq!(mounted, wanted);
    assert_eq!(volumes.len(), mounts.len());
    assert_eq!(
        manifest["spec"]["selector"]["matchLabels"],
        manifest["spec"]["template"]["metadata"]["labels"]
    );
    let version = format!("poisontrace:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(container(&manifest)["image"], version.as_str());
}
