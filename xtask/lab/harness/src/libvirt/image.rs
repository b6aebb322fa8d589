//! The daemon's image as `daemon/packaging/container` defines it: the Containerfile's files and command, and the rights of the
//! DaemonSet, as a bundle of the Open Container Initiative.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::bundle::{self, Namespaces};

/// The instructions of a Containerfile that the project's has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// From the repository, to the image.
    pub copies: Vec<(PathBuf, PathBuf)>,
    pub entrypoint: Vec<String>,
}

/// Reads a Containerfile. An instruction that is not known is an error: the bundle would lack it.
pub fn definition(containerfile: &str) -> Result<Definition> {
    let mut found = Definition::default();
    for line in containerfile.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (instruction, rest) = line
            .split_once(' ')
            .context("an instruction without an argument")?;
        match instruction {
            // The lab's Debian takes its place.
            "FROM" => ensure!(
                rest.starts_with("debian:bookworm"),
                "the image is made from {rest}"
            ),
            "COPY" => {
                let paths: Vec<&str> = rest.split_whitespace().collect();
                let (to, from) = paths.split_last().context("COPY of nothing")?;
                for from in from {
                    let from = PathBuf::from(from);
                    let name = from.file_name().context("COPY of a folder")?;
                    let to = match to.strip_suffix('/') {
                        Some(folder) => Path::new(folder).join(name),
                        None => PathBuf::from(to),
                    };
                    found.copies.push((from, to));
                }
            }
            "ENTRYPOINT" => found.entrypoint = serde_json::from_str(rest).context("ENTRYPOINT is no list")?,
            // The DaemonSet has arguments of its own.
            "CMD" => {}
            _ => bail!("the lab does not know the instruction {instruction}"),
        }
    }
    ensure!(!found.entrypoint.is_empty(), "the image has no ENTRYPOINT");
    Ok(found)
}

/// The configuration of the manifest's only container. `arguments`: in place of the manifest's.
pub fn configuration(manifest: &str, image: &Definition, arguments: Option<&[&str]>) -> Result<Value> {
    let manifest: Value = serde_saphyr::from_str(manifest).context("the manifest is no YAML")?;
    let pod = &manifest["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let rights = &container["securityContext"];
    let text = |value: &Value, what: &str| -> Result<String> {
        let text = value.as_str();
        Ok(text
            .with_context(|| format!("the manifest has no {what}"))?
            .to_owned())
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut command = image.entrypoint.clone();
    match arguments {
        Some(arguments) => command.extend(arguments.iter().map(|word| (*word).to_owned())),
        None => {
            for word in list(&container["args"]) {
                command.push(text(&word, "argument")?);
            }
        }
    }
    let mut environment = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    for variable in list(&container["env"]) {
        let (name, value) = (
            text(&variable["name"], "name")?,
            text(&variable["value"], "value")?,
        );
        environment.push(format!("{name}={value}"));
    }
    ensure!(
        rights["capabilities"]["drop"] == json!(["ALL"]),
        "the manifest keeps the runtime's capabilities"
    );
    let mut capabilities = Vec::new();
    for name in list(&rights["capabilities"]["add"]) {
        capabilities.push(format!("CAP_{}", text(&name, "capability")?));
    }
    let mut mounts = bundle::mounts();
    for mount in list(&container["volumeMounts"]) {
        let volumes = list(&pod["volumes"]);
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume {}", mount["name"]))?;
        let from = text(&volume["hostPath"]["path"], "hostPath")?;
        mounts.push(bundle::bind(
            &from,
            &text(&mount["mountPath"], "mountPath")?,
            "rw",
        ));
    }
    let of_pids = match pod["hostPID"] == json!(true) {
        true => Namespaces::HostPid,
        false => Namespaces::Own,
    };
    let limits = &container["resources"]["limits"];
    ensure!(
        limits["cpu"] == "1" && limits["memory"] == "256Mi",
        "the lab does not know the limits {limits}"
    );
    Ok(json!({
        "ociVersion": bundle::VERSION,
        "process": {
            "user": {"uid": rights["runAsUser"], "gid": 0},
            "args": command,
            "env": environment,
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": rights["allowPrivilegeEscalation"] == json!(false),
        },
        "root": {"path": "rootfs", "readonly": rights["readOnlyRootFilesystem"]},
        "hostname": "poisontrace-node",
        "mounts": mounts,
        "linux": {
            "namespaces": of_pids.list(),
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": 256 << 20},
                "cpu": {"quota": 100_000, "period": 100_000},
                "pids": {"limit": 128},
            },
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINERFILE: &str = include_str!("../../../../../daemon/packaging/container/Containerfile");
    const MANIFEST: &str = include_str!("../../../../../daemon/packaging/container/daemonset.yaml");

    #[test]
    fn the_projects_image_is_read() {
        let image = definition(CONTAINERFILE).unwrap();
        assert_eq!(image.entrypoint, ["/usr/bin/poisontrace"]);
        let daemon = (
            PathBuf::from("target/release/poisontrace"),
            PathBuf::from("/usr/bin/poisontrace"),
        );
        assert!(image.copies.contains(&daemon), "{image:?}");
        let licence = PathBuf::from("/usr/share/licenses/poisontrace/LICENSE-MIT");
        assert!(image.copies.iter().any(|(_, to)| *to == licence), "{image:?}");
        assert!(definition("FROM debian:bookworm-slim\nRUN true\nENTRYPOINT [\"/a\"]\n").is_err());
        assert!(definition("FROM alpine:3\nENTRYPOINT [\"/a\"]\n").is_err());
    }

    #[test]
    fn the_bundle_has_the_rights_of_the_daemon_set_and_no_others() {
        let image = definition(CONTAINERFILE).unwrap();
        let bundle = configuration(MANIFEST, &image, None).unwrap();
        let process = &bundle["process"];
        assert_eq!(process["args"], json!(["/usr/bin/poisontrace", "run"]));
        assert_eq!(
            process["capabilities"]["bounding"],
            json!([
                "CAP_BPF",
                "CAP_PERFMON",
                "CAP_SYS_ADMIN",
                "CAP_DAC_READ_SEARCH",
                "CAP_SYS_PTRACE"
            ])
        );
        assert_eq!(process["noNewPrivileges"], true);
        assert_eq!(bundle["root"]["readonly"], true);
        let namespaces: Vec<&Value> = bundle["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| &namespace["type"])
            .collect();
        assert!(!namespaces.contains(&&json!("pid")), "hostPID: {namespaces:?}");
        assert!(namespaces.contains(&&json!("cgroup")) && namespaces.contains(&&json!("mount")));
        let mounts = bundle["mounts"].as_array().unwrap();
        for path in ["/sys/fs/bpf", "/sys/kernel/tracing", "/var/lib/poisontrace"] {
            let mount = mounts.iter().find(|mount| mount["destination"] == path);
            assert_eq!(mount.unwrap()["source"], path);
        }
        let check = configuration(MANIFEST, &image, Some(&["check"])).unwrap();
        assert_eq!(check["process"]["args"], json!(["/usr/bin/poisontrace", "check"]));
    }
}
