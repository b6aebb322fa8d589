//! The container of a VMM in words.

use poisontrace_model::{event::container::Container, incident::model::Vm};

/// Digits of a container's number that runtimes show, and that their commands take.
const SHOWN: usize = 12;

/// `KubeVirt db-7 in namespace shop; pod UID, container NUMBER`
pub fn container(vm: &Vm) -> Option<String> {
    let Container { id, pod_uid } = vm.container.as_ref()?;
    let id = id.get(..SHOWN).unwrap_or(id);
    let pod = pod_uid.as_ref().map(|uid| format!("pod {uid}, "));
    let of_kubevirt = vm.name.as_deref().filter(|_| pod.is_some()).and_then(kubevirt);
    let of_kubevirt =
        of_kubevirt.map(|(namespace, name)| format!("KubeVirt's {name} of namespace {namespace}; "));
    Some(format!(
        "{}{}container {id}",
        of_kubevirt.unwrap_or_default(),
        pod.unwrap_or_default()
    ))
}

/// Namespace and name of a pod's VM that KubeVirt runs, whose libvirt calls it `namespace_name`. Kubernetes' names have no `_`.
pub fn kubevirt(vm: &str) -> Option<(&str, &str)> {
    let (namespace, name) = vm.split_once('_')?;
    let of_kubernetes = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    };
    (of_kubernetes(namespace) && of_kubernetes(name)).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, pod_uid: Option<&str>) -> Vm {
        Vm {
            name: Some(name.to_owned()),
            container: Some(Container {
                id: "3f0c52a6d1f94e3c9a7d0e6f18b2a45c".repeat(2),
                pod_uid: pod_uid.map(str::to_owned),
            }),
            ..Vm::default()
        }
    }

    #[test]
    fn a_pod_and_its_container_are_named_and_the_vm_as_kubevirt_names_it() {
        assert_eq!(
            container(&vm("shop_db-7", Some("1b2c"))).unwrap(),
            "KubeVirt's db-7 of namespace shop; pod 1b2c, container 3f0c52a6d1f9"
        );
        assert_eq!(
            container(&vm("sandbox-3f0c", Some("1b2c"))).unwrap(),
            "pod 1b2c, container 3f0c52a6d1f9"
        );
        assert_eq!(
            container(&vm("shop_db-7", None)).unwrap(),
            "container 3f0c52a6d1f9"
        );
        assert_eq!(container(&Vm::default()), None);
        for name in ["db-7", "a_b_c", "_b", "a_", "Shop_db", "a_b c"] {
            assert_eq!(kubevirt(name), None, "{name}");
        }
    }
}
