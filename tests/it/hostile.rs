//! Hostile receivers: each fails in its own way, without an effect on the others (promise P5).

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};

use crate::boxed::{Plan, event};
use crate::sink::{Reply, Sink};

/// Returns the configuration of a TLS server whose certificate is not trusted.
fn stranger() -> Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap())
}

#[test]
fn hostile_receivers_leave_the_others_alone_and_are_told_apart() {
    let good = Sink::good();
    let inside = Sink::good();
    let never = Sink::new(|_, _| Reply::Never);
    let drip = Sink::new(|_, _| Reply::Drip(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n".to_vec()));
    let closes = Sink::new(|_, _| Reply::Close);
    let huge = Sink::new(|_, _| Reply::Huge(10 << 20));
    let target = format!("location: {}\r\n", inside.url());
    let redirects = Sink::new(move |_, _| Reply::with(307, &target, ""));
    let garbage = Sink::new(|_, _| Reply::Bytes(b"220 mail.example ESMTP\r\n\r\n".to_vec()));
    let fails = Sink::new(|_, _| Reply::status(500));
    let login = Sink::new(|_, _| Reply::with(200, "content-type: text/html\r\n", "<form action=\"/login\">"));
    let wrong = Sink::tls(stranger(), |_, _| Reply::status(202));
    let nobody = { Sink::good().url() };
    let mut gateway = Plan::new()
        .stream("good", &good.url())
        .stream("never", &never.url())
        .stream("drip", &drip.url())
        .stream("closes", &closes.url())
        .stream("huge", &huge.url())
        .stream("redirects", &redirects.url())
        .stream("garbage", &garbage.url())
        .stream("fails", &fails.url())
        .stream("login", &login.url())
        .stream("wrong", &format!("https://localhost:{}/", wrong.port))
        .stream("nobody", &nobody)
        .options("[methods.push]\ntimeout = \"2s\"\n")
        .start();
    for round in 0..10 {
        gateway.accept_all((round * 20..round * 20 + 20).map(|number| event(number, &format!("key-{}", number % 7))));
    }
    let all = good.until_numbers(0..200);
    assert_eq!(all.len(), 200, "the good receiver got something twice");
    let healthy = gateway.until_stream("good", "all acknowledged", |view| view["acknowledged"] == 200);
    assert_eq!(healthy["status"], "enabled");
    // A 202 counts, whatever is wrong with the body behind it.
    gateway.until_stream("huge", "all acknowledged", |view| view["acknowledged"] == 200);
    for (id, told) in [
        ("never", "(timeout)"),
        ("drip", "(timeout)"),
        ("closes", "(closed)"),
        ("redirects", "(redirect)"),
        ("garbage", "(protocol)"),
        ("fails", "(http_500)"),
        ("login", "(answer_contradicts)"),
        ("wrong", "(tls)"),
        ("nobody", "(connect)"),
    ] {
        let view = gateway.until_stream(id, "an error", |view| view["last_error"].to_string().contains(told));
        assert_eq!(view["acknowledged"], 0, "{view}");
        assert_eq!(view["owed"], 200, "{view}");
        assert_eq!(view["parked"].as_u64().unwrap() + view["waiting"].as_u64().unwrap(), 200, "{view}");
    }
    assert!(inside.arrived().is_empty(), "a redirect was followed");
}

#[test]
fn the_gateways_own_listeners_are_no_endpoint_even_where_loopback_is_allowed() {
    let good = Sink::good();
    let mut plan = Plan::new().prepare();
    let text = std::fs::read_to_string(plan.config()).unwrap();
    let issuer = plan.issuer("");
    let stream = |id: &str, url: &str| {
        format!(
            "\n[[streams]]\nid = \"{id}\"\nissuer = \"{issuer}\"\naudience = \"https://{id}.example\"\ndelivery = {{ method = \"push\", endpoint_url = \"{url}\" }}\n"
        )
    };
    let listener = format!("http://localhost:{}/admin/v1/streams/good/pause", plan.operator);
    let text = format!("{text}{}{}", stream("good", &good.url()), stream("door", &listener));
    std::fs::write(plan.config(), text).unwrap();
    plan.start();
    plan.accept(&event(1, "a"));
    good.until_numbers([1]);
    let view = plan.until_stream("door", "an error", |view| !view["last_error"].is_null());
    assert!(view["last_error"].to_string().contains("listener of this gateway"), "{view}");
    assert_eq!(plan.stream("good")["status"], "enabled");
}

#[test]
fn a_name_that_leads_inside_is_refused_and_the_refusal_names_the_option() {
    let mut gateway = Plan::new().strict().stream("inside", "https://localhost:8443/sets").start();
    gateway.accept(&event(1, "a"));
    let view = gateway.until_stream("inside", "an error", |view| !view["last_error"].is_null());
    assert!(view["last_error"].to_string().contains("allow_networks"), "{view}");
    assert_eq!(view["waiting"], 1, "{view}");
}

#[test]
fn a_literal_inside_address_is_refused_before_the_gateway_starts() {
    for url in [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "https://169.254.169.254/",
        "https://0x7f.1/",
        "https://2130706433/",
    ] {
        let mut gateway = Plan::new().strict().stream("inside", url).prepare();
        gateway.spawn();
        let status = gateway.ended();
        assert_eq!(status.code(), Some(2), "{url}: {}", gateway.log());
        assert!(gateway.log().contains("allow_networks"), "{url}: {}", gateway.log());
    }
}

#[test]
fn a_name_that_changes_its_address_is_validated_at_every_connection() {
    let allowed = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = allowed.local_addr().unwrap().port();
    let inside = Sink::on(std::net::TcpListener::bind(("127.0.0.3", port)).unwrap(), None, |_, _| Reply::status(202));
    // The server closes after each answer, so that the next SET needs a new connection.
    let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    let sink = Sink::on(allowed, None, move |_, _| Reply::Bytes(answer.clone()));
    let url = format!("http://rebind.test:{port}/");
    let mut gateway = Plan::new()
        .strict()
        .stream("moves", &url)
        .options("[net]\nallow_networks = [\"127.0.0.2/32\"]\nallow_http = true\n")
        .in_namespace("mount --bind \"$BOX/hosts\" /etc/hosts")
        .prepare();
    std::fs::write(gateway.path("hosts"), "127.0.0.2 rebind.test\n").unwrap();
    gateway.start();
    gateway.accept(&event(1, "a"));
    sink.until_numbers([1]);
    std::fs::write(gateway.path("hosts"), "127.0.0.3 rebind.test\n").unwrap();
    gateway.accept(&event(2, "a"));
    let view = gateway.until_stream("moves", "a refusal", |view| view["last_error"].to_string().contains("127.0.0.3"));
    assert_eq!(view["waiting"], 1, "{view}");
    assert!(inside.arrived().is_empty(), "an inside address was reached");
    std::fs::write(gateway.path("hosts"), "127.0.0.2 rebind.test\n").unwrap();
    sink.until_numbers([1, 2]);
}
