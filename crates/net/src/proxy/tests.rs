use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::Request};
use futures_util::future::BoxFuture;
use setgate_clock::Runtime;
use tokio::{net::TcpListener, sync::watch};

use super::*;
use crate::{
    Listener, Outbound, OwnAddresses, Resolve, Roots, ServerCertificate, TlsPolicy,
    client::tests::{get, local},
};

/// The way a proxy answers `CONNECT`.
#[derive(Clone)]
enum Behaviour {
    /// Connects to the address of the target.
    Good,
    /// Sends these bytes and closes.
    Says(&'static [u8]),
    /// Reads the request and never answers.
    Silent,
}

/// A proxy that records its requests.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(behaviour: Behaviour, names: HashMap<String, SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = proxy.asked.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(tcp, behaviour.clone(), names.clone(), asked.clone()));
            }
        });
        proxy
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn config(&self, resolves: bool) -> OutboundConfig {
        OutboundConfig {
            system_roots: false,
            egress_proxy: format!("http://{}", self.address),
            egress_proxy_resolves: resolves,
            timeout: Duration::from_secs(2),
            ..OutboundConfig::default()
        }
    }
}

async fn serve(
    mut tcp: TcpStream,
    behaviour: Behaviour,
    names: HashMap<String, SocketAddr>,
    asked: Arc<Mutex<Vec<String>>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    let text = String::from_utf8(head).unwrap();
    asked.lock().unwrap().push(text.clone());
    match behaviour {
        Behaviour::Silent => {
            let _ = tcp.read_u8().await;
        }
        Behaviour::Says(bytes) => {
            tcp.write_all(bytes).await?;
            tcp.shutdown().await?;
        }
        Behaviour::Good => {
            let mut words = text.split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            if method != "CONNECT" {
                let body = format!("forwarded {target}");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                return tcp.write_all(answer.as_bytes()).await;
            }
            let to = names.get(target).copied().or_else(|| target.parse().ok());
            let Some(to) = to else { return tcp.write_all(b"HTTP/1.1 502 No\r\n\r\n").await };
            let mut further = TcpStream::connect(to).await?;
            tcp.write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 test\r\n\r\n").await?;
            tokio::io::copy_bidirectional(&mut tcp, &mut further).await?;
        }
    }
    Ok(())
}

/// A resolver that knows these names.
struct Names(Vec<(&'static str, Vec<[u8; 4]>)>);

impl Resolve for Names {
    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let answer = found.map(|(_, all)| all.iter().copied().map(IpAddr::from).collect());
        Box::pin(std::future::ready(answer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))))
    }
}

fn out(config: &OutboundConfig, names: Names) -> Outbound {
    Outbound::with_resolver(config, setgate_clock::system(), OwnAddresses::new(), Arc::new(names)).unwrap()
}

struct Target {
    port: u16,
    roots: Roots,
    _stop: watch::Sender<bool>,
}

/// Starts a receiver with a certificate for `receiver.example` that answers with the header fields it received.
async fn target(runtime: &Runtime) -> Target {
    let own = rcgen::generate_simple_self_signed(["receiver.example".to_owned()]).unwrap();
    let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let certificate = ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap().with_tls(&certificate).unwrap();
    let port = listener.address().port();
    let (stop, stopped) = watch::channel(false);
    let app = Router::new().fallback(|request: Request| async move { format!("{:?}", request.headers()) });
    runtime.spawn("target", listener.serve(app, stopped, runtime.clone()));
    Target { port, roots: Roots::from_pem(chain.as_bytes()).unwrap(), _stop: stop }
}

#[tokio::test]
async fn the_checked_address_is_asked_for_and_the_certificate_is_checked_end_to_end() {
    let runtime = setgate_clock::system();
    let target = target(&runtime).await;
    let proxy = Proxy::start(Behaviour::Good, HashMap::new()).await;
    let names = || Names(vec![("receiver.example", vec![[127, 0, 0, 1]]), ("impostor.example", vec![[127, 0, 0, 1]])]);
    let client = out(&proxy.config(false), names()).client(&local(Some(target.roots.clone()), None));
    let answer = client.send(get(&format!("https://receiver.example:{}/x", target.port))).await.unwrap();
    assert_eq!(answer.status, 200);
    let asked = proxy.asked();
    assert_eq!(asked, [format!("CONNECT 127.0.0.1:{p} HTTP/1.1\r\nHost: 127.0.0.1:{p}\r\n\r\n", p = target.port)]);
    // The connection is used again.
    client.send(get(&format!("https://receiver.example:{}/y", target.port))).await.unwrap();
    assert_eq!(proxy.asked().len(), 1);
    let wrong = client.send(get(&format!("https://impostor.example:{}/", target.port))).await.unwrap_err();
    assert_eq!(wrong.fault, HttpFault::Tls, "{wrong}");
    // A dialled connection leaves through the proxy as well.
    let url = Url::parse(&format!("https://receiver.example:{}/", target.port)).unwrap();
    client.dial(&url).await.unwrap();
    assert_eq!(proxy.asked().len(), 3);
}

#[tokio::test]
async fn names_that_lead_inside_are_refused_and_the_proxy_is_not_asked() {
    let proxy = Proxy::start(Behaviour::Good, HashMap::new()).await;
    let names = || Names(vec![("inside.example", vec![[10, 0, 0, 1]])]);
    let strict = TlsPolicy::default();
    for resolves in [false, true] {
        let client = out(&proxy.config(resolves), names()).client(&strict);
        for url in ["https://10.0.0.1/", "https://169.254.169.254/", "https://[::ffff:10.0.0.1]/", "http://a.example/"]
        {
            let refused = client.send(get(url)).await.unwrap_err();
            assert_eq!(refused.fault, HttpFault::Guard, "{url}, resolves {resolves}: {refused}");
        }
    }
    let client = out(&proxy.config(false), names()).client(&strict);
    let refused = client.send(get("https://inside.example/")).await.unwrap_err();
    assert_eq!(refused.fault, HttpFault::Guard, "{refused}");
    assert!(proxy.asked().is_empty());
    // A proxy that resolves is given the name, and its rules are the guard.
    let client = out(&proxy.config(true), names()).client(&strict);
    let refused = client.send(get("https://inside.example/")).await.unwrap_err();
    assert_eq!(refused.fault, HttpFault::Proxy, "{refused}");
    assert!(proxy.asked()[0].starts_with("CONNECT inside.example:443 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_proxy_that_resolves_is_asked_for_the_name_and_nobody_else_is() {
    let runtime = setgate_clock::system();
    let target = target(&runtime).await;
    let at = SocketAddr::from(([127, 0, 0, 1], target.port));
    let name = format!("receiver.example:{}", target.port);
    let proxy = Proxy::start(Behaviour::Good, HashMap::from([(name.clone(), at)])).await;
    let client = out(&proxy.config(true), Names(Vec::new())).client(&local(Some(target.roots.clone()), None));
    assert_eq!(client.send(get(&format!("https://{name}/"))).await.unwrap().status, 200);
    assert!(proxy.asked()[0].starts_with(&format!("CONNECT {name} HTTP/1.1\r\n")));
}

#[tokio::test]
async fn the_credentials_are_for_the_proxy_alone() {
    let runtime = setgate_clock::system();
    let target = target(&runtime).await;
    let proxy = Proxy::start(Behaviour::Good, HashMap::new()).await;
    let credentials = SecretRef::from("gate:canary".to_owned());
    let config = OutboundConfig { egress_proxy_credentials: credentials, ..proxy.config(false) };
    let names = Names(vec![("receiver.example", vec![[127, 0, 0, 1]])]);
    let out = out(&config, names);
    assert!(!format!("{:?} {config:?}", out.egress()).contains("canary"));
    let client = out.client(&local(Some(target.roots.clone()), None));
    let answer = client.send(get(&format!("https://receiver.example:{}/", target.port))).await.unwrap();
    let line = format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode("gate:canary"));
    assert!(proxy.asked()[0].contains(&line), "{}", proxy.asked()[0]);
    assert!(!String::from_utf8_lossy(&answer.body).contains("proxy-authorization"), "{answer:?}");
}

#[tokio::test]
async fn plain_http_is_handed_to_a_proxy_that_resolves_and_tunnelled_otherwise() {
    let proxy = Proxy::start(Behaviour::Good, HashMap::new()).await;
    let credentials = SecretRef::from("gate:canary".to_owned());
    let config = OutboundConfig { egress_proxy_credentials: credentials, ..proxy.config(true) };
    let client = out(&config, Names(Vec::new())).client(&local(None, None));
    let answer = client.send(get("http://receiver.example:8080/x?y")).await.unwrap();
    assert_eq!(answer.body, "forwarded http://receiver.example:8080/x?y");
    let head = proxy.asked()[0].to_ascii_lowercase();
    assert!(head.contains("proxy-authorization: basic ") && head.contains("host: receiver.example:8080"), "{head}");

    let echo = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut tcp, _) = echo.accept().await.unwrap();
        let mut some = [0u8; 1024];
        let length = tcp.read(&mut some).await.unwrap();
        let head = String::from_utf8_lossy(&some[..length]).into_owned();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
        tcp.write_all(answer.as_bytes()).await.unwrap();
    });
    let names = Names(vec![("receiver.example", vec![[127, 0, 0, 1]])]);
    let config = OutboundConfig { egress_proxy_resolves: false, ..config };
    let client = out(&config, names).client(&local(None, None));
    let answer = client.send(get(&format!("http://receiver.example:{port}/x"))).await.unwrap();
    let seen = String::from_utf8_lossy(&answer.body).to_ascii_lowercase();
    assert!(seen.starts_with("get /x http/1.1\r\n") && !seen.contains("proxy-auth"), "{seen}");
    assert!(proxy.asked()[1].starts_with(&format!("CONNECT 127.0.0.1:{port} ")));
}

#[tokio::test]
async fn what_a_proxy_refuses_or_mumbles_is_a_fault_of_its_own() {
    let huge: &'static [u8] = Box::leak([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'a'; 20_000]].concat().into());
    let names = || Names(vec![("receiver.example", vec![[93, 184, 216, 34], [93, 184, 216, 35]])]);
    for (said, says, times) in [
        (b"HTTP/1.1 407 Who?\r\nproxy-authenticate: Basic\r\n\r\n".as_slice(), "egress_proxy_credentials", 1),
        (b"HTTP/1.1 403 No\r\n\r\n", "rules", 1),
        (b"HTTP/1.1 503 Later\r\n\r\n", "503", 2),
        (b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "100", 1),
        (b"HTTP/1.1 302 There\r\nlocation: http://10.0.0.1/\r\n\r\n", "302", 1),
        (b"HTTP/2 200\r\n\r\n", "no HTTP", 1),
        (b"HTTP/1.1 2000\r\n\r\n", "no HTTP", 1),
        (b"SSH-2.0-x\r\n\r\n", "no HTTP", 1),
        (b"HTTP/1.1 200 OK\r\n\r\nmore", "more than the head", 1),
        (b"", "without an answer", 1),
        (huge, "8192 bytes", 1),
    ] {
        let proxy = Proxy::start(Behaviour::Says(said), HashMap::new()).await;
        let client = out(&proxy.config(false), names()).client(&TlsPolicy::default());
        let fault = client.send(get("https://receiver.example/")).await.unwrap_err();
        assert_eq!(fault.code(), "proxy", "{fault}");
        assert!(fault.text.contains(says), "{says}: {fault}");
        assert_eq!(proxy.asked().len(), times, "{says}: another address is tried only where that may help");
    }
    let proxy = Proxy::start(Behaviour::Says(b"HTTP/1.1 407 Who?\r\ncontent-length: 0\r\n\r\n"), HashMap::new()).await;
    let client = out(&proxy.config(true), names()).client(&local(None, None));
    assert_eq!(client.send(get("http://receiver.example/")).await.unwrap_err().fault, HttpFault::Proxy);
}

#[tokio::test]
async fn a_proxy_that_is_silent_or_not_there_holds_nothing_up() {
    let names = || Names(vec![("receiver.example", vec![[93, 184, 216, 34]])]);
    let proxy = Proxy::start(Behaviour::Silent, HashMap::new()).await;
    let client = out(&proxy.config(false), names()).client(&TlsPolicy::default());
    let mut request = get("https://receiver.example/");
    request.timeout = Some(Duration::from_millis(50));
    assert_eq!(client.send(request).await.unwrap_err().fault, HttpFault::Timeout);
    let gone = { TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap() };
    let config = OutboundConfig { egress_proxy: format!("http://{gone}"), ..proxy.config(false) };
    let fault = out(&config, names()).client(&TlsPolicy::default()).send(get("https://receiver.example/")).await;
    assert_eq!(fault.unwrap_err().fault, HttpFault::Proxy);
}

#[tokio::test]
async fn a_listener_of_the_gateway_is_no_proxy() {
    let proxy = Proxy::start(Behaviour::Good, HashMap::new()).await;
    let own = OwnAddresses::new();
    own.add(proxy.address);
    let names = Names(vec![("receiver.example", vec![[93, 184, 216, 34]])]);
    let out = Outbound::with_resolver(&proxy.config(false), setgate_clock::system(), own, Arc::new(names)).unwrap();
    let fault = out.client(&TlsPolicy::default()).send(get("https://receiver.example/")).await.unwrap_err();
    assert!(fault.fault == HttpFault::Proxy && fault.text.contains("listener"), "{fault}");
    assert!(proxy.asked().is_empty());
}

#[test]
fn only_a_bare_http_url_with_a_port_is_a_proxy() {
    let of = |proxy: &str, credentials: &str| {
        Egress::of(&OutboundConfig {
            egress_proxy: proxy.to_owned(),
            egress_proxy_credentials: SecretRef::from(credentials.to_owned()),
            ..OutboundConfig::default()
        })
    };
    for good in
        ["http://proxy:3128", "http://proxy:80", "http://proxy:80/", "http://[::1]:3128/", "http://10.0.0.1:3128"]
    {
        let egress = of(good, "").unwrap().unwrap();
        assert_eq!(egress.to_string(), good.trim_end_matches('/'));
    }
    for bad in [
        "proxy:3128",
        "https://proxy:3128",
        "http://proxy",
        "http://u:p@proxy:3128",
        "http://proxy:3128/x",
        "http://proxy:3128?x",
        "http://proxy:3128#x",
        "socks5://proxy:3128",
        "http://proxy:0",
    ] {
        assert!(of(bad, "").is_err(), "{bad}");
    }
    assert!(of("", "").unwrap().is_none());
    assert!(of("", "user:password").is_err(), "credentials of no proxy");
    for bad in ["user", "us\ner:x", "file:/no/such/file"] {
        assert!(of("http://proxy:3128", bad).is_err(), "{bad}");
    }
}
