//! What container runtimes write about a container.
//!
//! Pure: bytes in, names out. The bytes can be anything: what is not in the format of
//! the runtime is not a name.

use serde::Deserialize;

/// The names of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// The name that its user gave it; in Kubernetes its name in the pod.
    pub name: Option<Box<str>>,
    /// Kubernetes: `NAMESPACE/NAME` of its pod.
    pub pod: Option<Box<str>>,
}

impl Named {
    fn new(name: Option<&str>, namespace: Option<&str>, pod: Option<&str>) -> Option<Named> {
        let pod = match (namespace.filter(is_sane), pod.filter(is_sane)) {
            (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}").into()),
            _ => None,
        };
        let name = name.filter(is_sane).map(Box::from);
        (name.is_some() || pod.is_some()).then_some(Named { name, pod })
    }
}

/// No runtime allows longer names.
fn is_sane(name: &&str) -> bool {
    (1..=255).contains(&name.len())
}

/// `config.v2.json` of Docker. The name begins with `/`. Where Kubernetes uses Docker,
/// labels have the pod.
pub(super) fn docker(config: &[u8]) -> Option<Named> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        name: Option<String>,
        config: Option<Config>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        labels: Option<Labels>,
    }
    let container: Container = serde_json::from_slice(config).ok()?;
    let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
    if labels.pod.is_some() {
        return labels.named();
    }
    let name = container.name?;
    Named::new(Some(name.strip_prefix('/').unwrap_or(&name)), None, None)
}

/// `config.json` of the Open Container Initiative's runtimes, as containerd and CRI-O
/// write it for Kubernetes: annotations have container and pod.
pub(super) fn annotated(config: &[u8]) -> Option<Named> {
    #[derive(Deserialize)]
    struct Spec {
        annotations: Option<Labels>,
    }
    let spec: Spec = serde_json::from_slice(config).ok()?;
    spec.annotations?.named()
}

/// Annotations of containerd (internal/cri/annotations) and CRI-O, and labels of the
/// kubelet.
#[derive(Default, Deserialize)]
struct Labels {
    #[serde(rename = "io.kubernetes.cri.container-name")]
    cri_container: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-namespace")]
    cri_namespace: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-name")]
    cri_pod: Option<String>,
    #[serde(rename = "io.kubernetes.container.name")]
    container: Option<String>,
    #[serde(rename = "io.kubernetes.pod.namespace")]
    namespace: Option<String>,
    #[serde(rename = "io.kubernetes.pod.name")]
    pod: Option<String>,
}

impl Labels {
    fn named(&self) -> Option<Named> {
        /// What CRI-O and Docker call the container that holds the pod's namespaces. It
        /// is not one of the user's.
        const SANDBOX: &str = "POD";
        if let Some(pod) = &self.cri_pod {
            let (name, namespace) = (self.cri_container.as_deref(), self.cri_namespace.as_deref());
            return Named::new(name, namespace, Some(pod));
        }
        let name = self.container.as_deref().filter(|name| *name != SANDBOX);
        Named::new(name, self.namespace.as_deref(), self.pod.as_deref())
    }
}

/// The name of a container in `containers.json` of containers/storage, which Podman and
/// CRI-O use: a list of all containers.
pub(super) fn stored(list: &[u8], id: &str) -> Option<Named> {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        names: Option<Vec<String>>,
    }
    let containers: Vec<Container> = serde_json::from_slice(list).ok()?;
    let container = containers.into_iter().find(|container| container.id == id)?;
    Named::new(container.names?.first().map(String::as_str), None, None)
}

/// The container's id and names from the name of its log: `POD_NAMESPACE_CONTAINER-ID.log`
/// in /var/log/containers, a link that the kubelet makes for every runtime. None of the
/// three names can contain `_`.
pub(super) fn log_name(file: &str) -> Option<(&str, Named)> {
    let (names, id) = file.strip_suffix(".log")?.rsplit_once('-')?;
    let mut names = names.split('_');
    let (pod, namespace, name) = (names.next()?, names.next()?, names.next()?);
    let named = Named::new(Some(name), Some(namespace), Some(pod))?;
    (names.next().is_none() && named.name.is_some() && named.pod.is_some()).then_some((id, named))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3b1c9e2f40d5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

    fn named(name: &str, pod: &str) -> Option<Named> {
        let text = |text: &str| (!text.is_empty()).then(|| text.into());
        Some(Named { name: text(name), pod: text(pod) })
    }

    #[test]
    fn docker_has_the_name_in_its_config() {
        let config = r#"{"StreamConfig":{},"State":{"Running":true,"Pid":4711},"ID":"3b1c",
            "Config":{"Hostname":"3b1c","Labels":{"maintainer":"x"},"Env":null},
            "Name":"/web","RestartCount":0}"#;
        assert_eq!(docker(config.as_bytes()), named("web", ""));
        assert_eq!(docker(br#"{"Name":"/we\"b\n\u001b[2J"}"#), named("we\"b\n\u{1b}[2J", ""));
        let kubernetes = r#"{"Config":{"Labels":{"io.kubernetes.container.name":"web",
            "io.kubernetes.pod.name":"shop-7d","io.kubernetes.pod.namespace":"prod"}},
            "Name":"/k8s_web_shop-7d_prod_0_0"}"#;
        assert_eq!(docker(kubernetes.as_bytes()), named("web", "prod/shop-7d"));
        let sandbox = kubernetes.replace(r#""web""#, r#""POD""#);
        assert_eq!(docker(sandbox.as_bytes()), named("", "prod/shop-7d"));
    }

    #[test]
    fn containerd_and_crio_have_annotations() {
        let containerd = r#"{"ociVersion":"1.1.0","process":{"env":["A=b"]},"annotations":{
            "io.kubernetes.cri.container-name":"web","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.sandbox-id":"f0","io.kubernetes.cri.sandbox-name":"shop-7d",
            "io.kubernetes.cri.sandbox-namespace":"prod"},"linux":{}}"#;
        assert_eq!(annotated(containerd.as_bytes()), named("web", "prod/shop-7d"));
        let crio = r#"{"annotations":{"io.container.manager":"cri-o",
            "io.kubernetes.container.name":"web","io.kubernetes.cri-o.ContainerType":"container",
            "io.kubernetes.pod.name":"shop-7d","io.kubernetes.pod.namespace":"prod"}}"#;
        assert_eq!(annotated(crio.as_bytes()), named("web", "prod/shop-7d"));
        let podman = r#"{"annotations":{"io.container.manager":"libpod",
            "io.kubernetes.cri-o.TTY":"false"}}"#;
        assert_eq!(annotated(podman.as_bytes()), None);
    }

    #[test]
    fn storage_has_a_list_of_names() {
        let list = format!(
            r#"[{{"id":"00","names":["a"]}},{{"id":"{ID}","names":["web","other"],"image":"79",
            "metadata":"{{\"name\":\"x\"}}","flags":{{"Volatile":true}}}},{{"id":"11"}}]"#
        );
        assert_eq!(stored(list.as_bytes(), ID), named("web", ""));
        assert_eq!(stored(list.as_bytes(), "11"), None);
        assert_eq!(stored(list.as_bytes(), "22"), None);
    }

    #[test]
    fn logs_are_named_after_their_containers() {
        let log = format!("shop-7d9f.x_prod_web-1-{ID}.log");
        assert_eq!(log_name(&log), named("web-1", "prod/shop-7d9f.x").map(|named| (ID, named)));
        for bad in
            ["", ".log", "a_b_c.log", "a_b-1.log", "a_b_c_d-1.log", "_b_c-1.log", "a_b_-1.log"]
        {
            assert_eq!(log_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_in_the_format_is_no_name() {
        let deep = "[".repeat(100_000);
        let long = format!(r#"{{"Name":"/{}"}}"#, "x".repeat(256));
        for text in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"Name":7}"#,
            r#"{"Name":"/"}"#,
            r#"{"Name":""}"#,
            r#"{"Name":null,"Config":null}"#,
            r#"{"annotations":null}"#,
            r#"{"annotations":{"io.kubernetes.pod.name":"a"}}"#,
            r#"{"annotations":{"io.kubernetes.cri.sandbox-name":"a"}}"#,
            r#"[{"id":7}]"#,
            r#"[{"names":["a"]}]"#,
            r#"[{"id":"22","names":[]}]"#,
            r#"[{"id":"22","names":[""]}]"#,
            r#"[{"id":"22","names":null}]"#,
            &deep,
            &long,
        ] {
            let bytes = text.as_bytes();
            let shown = &text[..text.len().min(60)];
            assert_eq!(
                (docker(bytes), annotated(bytes), stored(bytes, "22")),
                (None, None, None),
                "{shown}"
            );
        }
        assert_eq!(docker(b"{\"Name\":\"/\xff\xfe\"}"), None, "not UTF-8");
    }
}
