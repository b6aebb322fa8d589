use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::*;

fn served(web_config: Option<&str>, ready: Ready) -> (SocketAddr, tempfile::TempDir) {
    let (address, dir, _) = controlled(web_config, ready);
    (address, dir)
}

/// A server with a pipeline that answers every scrape, on a thread of its own.
fn controlled(web_config: Option<&str>, ready: Ready) -> (SocketAddr, tempfile::TempDir, Controls) {
    let dir = tempfile::tempdir().unwrap();
    let file = web_config.map(|text| {
        let file = dir.path().join("web.yml");
        fs::write(&file, text).unwrap();
        file
    });
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = Server::new(any, file.as_deref(), ready, None).unwrap().unwrap();
    let address = server.address().unwrap();
    let (started, controls) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let (mut scrapes, controls) = server.start().unwrap();
            started.send(controls).unwrap();
            while let Some(scrape) = scrapes.recv().await {
                let _ = scrape.send("poisontrace_vms 3\n".to_owned());
            }
        });
    });
    (address, dir, controls.recv().unwrap())
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n"),
    )
}

#[test]
fn the_pages_are_there_and_nothing_else_is() {
    let (address, _dir) = served(None, Ready::Yes);
    assert!(get(address, "/metrics", "").contains("version=0.0.4"));
    assert!(get(address, "/metrics", "").ends_with("poisontrace_vms 3\n"));
    assert!(get(address, "/-/healthy", "").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/-/ready", "").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/", "").contains("href=\"/metrics\""));
    assert!(get(address, "/../etc/passwd", "").starts_with("HTTP/1.1 404"));
    let posted = ask(
        address,
        "POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n",
    );
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    assert!(posted.to_lowercase().contains("connection: close"));
    let long = format!("X: {}\r\n", "x".repeat(20_000));
    assert!(get(address, "/metrics", &long).starts_with("HTTP/1.1 431"));
}

#[test]
fn without_the_probes_that_a_verdict_needs_it_is_not_ready_and_says_why() {
    let (address, _dir) = served(None, Ready::No("no verdict without kvm_exit".into()));
    let answer = get(address, "/-/ready", "");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("no verdict without kvm_exit\n"));
}

#[test]
fn probes_that_are_lost_while_it_serves_make_it_unready_until_they_are_back() {
    let (address, _dir, controls) = controlled(None, Ready::Yes);
    let status = || get(address, "/-/ready", "").chars().take(12).collect::<String>();
    assert_eq!(status(), "HTTP/1.1 200");
    controls.ready(Ready::No("no verdict is possible without: kvm_exit".into()));
    assert_eq!(status(), "HTTP/1.1 503");
    assert!(get(address, "/-/healthy", "").starts_with("HTTP/1.1 200"));
    controls.ready(Ready::Yes);
    assert_eq!(status(), "HTTP/1.1 200");
}

#[test]
fn a_client_that_never_ends_its_headers_is_let_go() {
    let (address, _dir) = served(None, Ready::Yes);
    let began = Instant::now();
    ask(address, "GET /metrics HTTP/1.1\r\nHost: h\r\nX-Slow: ");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn users_need_their_password() {
    let hash = bcrypt::hash("right", 4).unwrap();
    let (address, _dir) = served(
        Some(&format!("basic_auth_users:\n  prometheus: '{hash}'\n")),
        Ready::Yes,
    );
    let with = |user: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        get(
            address,
            "/metrics",
            &format!("Authorization: Basic {}\r\n", STANDARD.encode(user)),
        )
    };
    assert!(with("prometheus:right").starts_with("HTTP/1.1 200"));
    assert!(with("prometheus:wrong").starts_with("HTTP/1.1 401"));
    assert!(with("somebody:right").starts_with("HTTP/1.1 401"));
    let none = get(address, "/metrics", "");
    assert!(none.starts_with("HTTP/1.1 401"));
    assert!(none.to_lowercase().contains("www-authenticate: basic"));
}

#[test]
fn what_is_not_offered_of_the_web_configuration_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yml");
    for (text, word) in [
        (
            "tls_server_config:\n  cert_file: a\n  cipher_suites: [x]\n",
            "cipher_suites",
        ),
        (
            "tls_server_config:\n  cert_file: a\n  client_auth_type: RequireAnyClientCert\n",
            "RequireAnyClientCert",
        ),
        (
            "tls_server_config:\n  cert_file: a.pem\n  key_file: a.key\n",
            "a.pem",
        ),
        ("basic_auth_users:\n  a: secret\n", "htpasswd"),
        ("http_server_config:\n  headers:\n    Server: x\n", "Server"),
        ("nonsense: [", "not a web configuration"),
    ] {
        fs::write(&file, text).unwrap();
        let problem = match access::Access::read(Some(&file)) {
            Err(err) => err.to_string(),
            Ok(_) => panic!("taken: {text}"),
        };
        assert!(problem.contains(word), "{problem}");
        assert!(!problem.contains("secret"), "{problem}");
    }
}

/// A root, a certificate that it signed for the server and one for a client, as files.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let dir = tempfile::tempdir().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        fs::write(dir.path().join("ca.pem"), ca_cert.pem()).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let cert = params.signed_by(&key, &issuer).unwrap();
            fs::write(dir.path().join(format!("{name}.pem")), cert.pem()).unwrap();
            fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The first bytes of the answer to GET /metrics; empty where there was none.
    fn get(&self, address: SocketAddr, with_certificate: bool) -> String {
        use tokio_rustls::rustls::{
            ClientConfig, ClientConnection, RootCertStore, StreamOwned,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        };
        let one = |name: &str| CertificateDer::from_pem_file(self.file(name)).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(one("ca.pem")).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if with_certificate {
            let key = PrivateKeyDer::from_pem_file(self.file("client.key")).unwrap();
            builder
                .with_client_auth_cert(vec![one("client.pem")], key)
                .unwrap()
        } else {
            builder.with_no_client_auth()
        };
        let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let _ = asked.and_then(|()| stream.read_to_string(&mut answer).map(|_| ()));
        answer
    }
}

#[test]
fn tls_with_client_certificates_lets_in_who_has_one() {
    let certificates = Certificates::make();
    let path = |name: &str| certificates.file(name).display().to_string();
    let config = |auth: &str| {
        format!(
            "tls_server_config:\n  cert_file: {}\n  key_file: {}\n{auth}",
            path("server.pem"),
            path("server.key"),
        )
    };
    let (open, _dir) = served(Some(&config("")), Ready::Yes);
    assert!(certificates.get(open, false).starts_with("HTTP/1.1 200"));
    assert!(
        !get(open, "/metrics", "").contains("poisontrace"),
        "plain HTTP gets nothing"
    );
    let auth = format!(
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {}\n",
        path("ca.pem")
    );
    let (closed, _dir) = served(Some(&config(&auth)), Ready::Yes);
    assert!(certificates.get(closed, true).starts_with("HTTP/1.1 200"));
    assert_eq!(certificates.get(closed, false), "");
}

struct OnePage;

impl Pages for OnePage {
    fn has(&self, path: &str) -> bool {
        path == "/one"
    }

    fn page(&self, _: &str, _: &str) -> Page {
        Page {
            status: Status::Ok,
            content: Content::Html("<p>one".to_owned()),
            next: Some("/one?before=1".to_owned()),
        }
    }

    fn style(&self) -> &'static str {
        "p {}"
    }
}

#[test]
fn pages_on_all_addresses_need_tls_and_a_user_and_a_reload_takes_neither_away() {
    let certificates = Certificates::make();
    let file = certificates.file("web.yml");
    let tls = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\n",
        certificates.file("server.pem").display(),
        certificates.file("server.key").display()
    );
    let users = format!(
        "basic_auth_users:\n  a: '{}'\n",
        bcrypt::hash("right", 4).unwrap()
    );
    let server = |config: &str| {
        fs::write(&file, config).unwrap();
        let all = Some(SocketAddr::from(([0, 0, 0, 0], 0)));
        Server::new(all, Some(&file), Ready::Yes, Some(Arc::new(OnePage)))
    };
    for config in ["", &tls, &users] {
        let refused = server(config).err().map(|err| err.to_string());
        assert!(
            refused.is_some_and(|why| why.contains("TLS and a user")),
            "{config}"
        );
    }
    let both = server(&format!("{tls}{users}")).unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let (_scrapes, controls) = both.start().unwrap();
    fs::write(&file, &tls).unwrap();
    assert!(controls.reload().is_err(), "everybody could read them");
    assert_eq!(controls.shared.access().users.len(), 1, "those before hold");
}
