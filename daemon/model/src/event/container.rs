//! The container that a VMM runs in.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// A container and its pod, as the host's cgroups name them: a VMM does not choose these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its number in the container runtime; in Kata that of the sandbox.
    pub id: String,
    /// UID of its pod; absent: Kubernetes does not run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}
