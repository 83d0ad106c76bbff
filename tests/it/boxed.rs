//! A gateway in a folder of its own, on ports of its own: the real program as a test fixture.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Answer, request};
use crate::sink::PATIENCE;

/// The event type of the tests' events.
pub(crate) const TYPE: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// The gateway that a test asks for.
pub(crate) struct Plan {
    options: String,
    issuers: Vec<String>,
    streams: Vec<(String, String, String, String)>,
    dev: bool,
    wrapper: Option<String>,
    program: PathBuf,
}

impl Plan {
    /// Creates a plan of a gateway in dev mode, with one issuer at the root that signs with ES256.
    pub(crate) fn new() -> Self {
        Self {
            options: String::new(),
            issuers: vec![String::new()],
            streams: Vec::new(),
            dev: true,
            wrapper: None,
            program: PathBuf::from(env!("CARGO_BIN_EXE_setgate")),
        }
    }

    /// Leaves dev mode: issuers are https, and internal addresses are refused.
    pub(crate) fn strict(mut self) -> Self {
        self.dev = false;
        self
    }

    /// Adds an issuer at a path.
    pub(crate) fn issuer(mut self, path: &str) -> Self {
        self.issuers.push(path.to_owned());
        self
    }

    /// Adds a push stream of the first issuer.
    pub(crate) fn stream(self, id: &str, endpoint: &str) -> Self {
        self.stream_of("", id, endpoint, "")
    }

    /// Adds a stream of the issuer at `path`, with further lines of its section.
    pub(crate) fn stream_of(mut self, path: &str, id: &str, endpoint: &str, more: &str) -> Self {
        self.streams.push((path.to_owned(), id.to_owned(), endpoint.to_owned(), more.to_owned()));
        self
    }

    /// Adds a stream of the first issuer with this `delivery`.
    pub(crate) fn stream_by(mut self, id: &str, delivery: &str) -> Self {
        self.streams.push((String::new(), id.to_owned(), String::new(), format!("delivery = {delivery}")));
        self
    }

    /// Sets another program than `setgate`, built on its library.
    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Adds options and sections to the configuration.
    pub(crate) fn options(mut self, toml: &str) -> Self {
        self.options.push_str(toml);
        self.options.push('\n');
        self
    }

    /// Starts the gateway from a shell after these commands, in a mount namespace of its own; `$BOX` is the gateway's
    /// folder.
    pub(crate) fn in_namespace(mut self, commands: &str) -> Self {
        self.wrapper = Some(commands.to_owned());
        self
    }

    /// Creates folder, configuration, store and keys, without starting.
    pub(crate) fn prepare(self) -> Gateway {
        let folder = TempDir::with_prefix("setgate-it-").unwrap();
        let (world, operator) = two_free_ports();
        let mut gateway = Gateway {
            folder,
            world,
            operator,
            dev: self.dev,
            child: None,
            token: String::new(),
            wrapper: self.wrapper,
            environment: Vec::new(),
            program: self.program,
        };
        let urls: Vec<String> = self.issuers.iter().map(|path| gateway.issuer(path)).collect();
        let mut made = vec!["producers".to_owned(), "new".to_owned(), "tester".to_owned()];
        made.extend(urls.iter().flat_map(|url| ["--issuer".to_owned(), url.clone()]));
        made.push("--json".to_owned());
        let made = gateway.run(&made.iter().map(String::as_str).collect::<Vec<_>>());
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        gateway.token = made["token"].as_str().unwrap().to_owned();
        let mut text = format!(
            "[gateway]\ndev = {}\ndrain_delay = \"0s\"\n\n[listen]\npublic = \"127.0.0.1:{world}\"\nadmin = \"127.0.0.1:{operator}\"\n\n",
            self.dev
        );
        text.push_str(&self.options);
        if !self.options.contains("[store]") {
            text.push_str("[store]\nreserve_bytes = 16777216\n");
        }
        if !self.options.contains("[router]") {
            text.push_str(
                "\n[router]\nbackoff_initial = \"50ms\"\nbackoff_max = \"1s\"\nretention_interval = \"1s\"\n",
            );
        }
        for url in &urls {
            text.push_str(&format!("\n[[issuers]]\nurl = \"{url}\"\nalgorithms = [\"ES256\"]\n"));
        }
        text.push_str(&format!("\n{}\n", made["toml"].as_str().unwrap()));
        for (path, id, endpoint, more) in &self.streams {
            let issuer = gateway.issuer(path);
            text.push_str(&format!(
                "\n[[streams]]\nid = \"{id}\"\nissuer = \"{issuer}\"\naudience = \"https://{id}.example\"\n{more}\n"
            ));
            if !endpoint.is_empty() {
                text.push_str(&format!("delivery = {{ method = \"push\", endpoint_url = \"{endpoint}\" }}\n"));
            }
        }
        std::fs::write(gateway.config(), text).unwrap();
        gateway
    }

    /// Creates a gateway and starts it.
    pub(crate) fn start(self) -> Gateway {
        let mut gateway = self.prepare();
        gateway.start();
        gateway
    }
}

/// A gateway, running or not. It is killed when the value is dropped.
pub(crate) struct Gateway {
    pub(crate) folder: TempDir,
    pub(crate) world: u16,
    pub(crate) operator: u16,
    dev: bool,
    child: Option<Child>,
    pub(crate) token: String,
    wrapper: Option<String>,
    /// The additional environment of the gateway's processes; commands do not have it.
    pub(crate) environment: Vec<(OsString, OsString)>,
    program: PathBuf,
}

impl Gateway {
    pub(crate) fn config(&self) -> PathBuf {
        self.path("setgate.toml")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the URL of the issuer at `path`.
    pub(crate) fn issuer(&self, path: &str) -> String {
        if self.dev {
            format!("http://127.0.0.1:{}{path}", self.world)
        } else {
            format!("https://idp.example.com{path}")
        }
    }

    /// Returns the log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts the gateway and waits until it is ready. The first start creates store and keys.
    pub(crate) fn start(&mut self) {
        self.spawn();
        let ready = request("GET", "/readyz", &[], b"");
        self.until("ready", |gateway| {
            if let Some(status) = gateway.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the gateway ended with {status}:\n{}", gateway.log());
            }
            http::try_send(gateway.operator, &ready).is_some_and(|answer| answer.status == 200)
        });
    }

    /// Starts the gateway without waiting.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = match &self.wrapper {
            None => clean(Command::new(&self.program)),
            Some(commands) => {
                let mut command = Command::new("unshare");
                let serve = format!("set -e\n{commands}\nexec {} \"$@\"", env!("CARGO_BIN_EXE_setgate"));
                command.args(["-rm", "sh", "-c", &serve, "sh"]).env("BOX", self.folder.path());
                command
            }
        };
        let command = command.envs(self.environment.clone()).args(["serve", "--init", "--config"]).arg(self.config());
        self.child = Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Kills the gateway, as a crash would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it is running").id()
    }

    /// Sends a signal to the gateway.
    pub(crate) fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it is running");
        assert!(Command::new("sh").args(["-c", &format!("kill {name} {}", child.id())]).status().unwrap().success());
    }

    /// Fails the test if the gateway has ended.
    pub(crate) fn goes_on(&mut self) {
        let status = self.child.as_mut().expect("it is running").try_wait().unwrap();
        assert_eq!(status, None, "it ended: {}", self.log());
    }

    /// Asks the gateway to stop, and waits for its end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.ended()
    }

    /// Waits for the gateway's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        self.until("its end", |gateway| {
            status = gateway.child.as_mut().expect("it is running").try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        status.unwrap()
    }

    /// Runs a command with the gateway's configuration.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        clean(Command::new(&self.program))
            .args(words)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and returns the JSON that it prints.
    pub(crate) fn command(&self, words: &[&str]) -> Value {
        let output = self.run(&[words, &["--json"]].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Returns the header fields of a producer's request.
    pub(crate) fn fields<'a>(&self, bearer: &'a mut String, kind: &'a str) -> [(&'a str, &'a str); 2] {
        *bearer = format!("Bearer {}", self.token);
        [("authorization", bearer), ("content-type", kind)]
    }

    /// Posts to the intake of the issuer at `path`.
    pub(crate) fn try_post(&self, path: &str, kind: &str, body: &[u8]) -> Option<Answer> {
        let mut bearer = String::new();
        let fields = self.fields(&mut bearer, kind);
        http::try_send(self.world, &request("POST", &format!("{path}/events"), &fields, body))
    }

    pub(crate) fn post(&self, kind: &str, body: &[u8]) -> Answer {
        self.try_post("", kind, body).unwrap_or_else(|| panic!("no answer to a post:\n{}", self.log()))
    }

    /// Puts in one event, which must be accepted, and returns the answer.
    pub(crate) fn accept(&self, event: &Value) -> Value {
        let answer = self.post("application/json", event.to_string().as_bytes());
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    }

    /// Puts in events, which must all be accepted.
    pub(crate) fn accept_all(&self, events: impl IntoIterator<Item = Value>) {
        let body: Vec<String> = events.into_iter().map(|event| format!("{event}\n")).collect();
        let answer = self.post("application/x-ndjson", body.concat().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let lines = answer.lines();
        assert_eq!(lines.len(), body.len(), "{}", answer.text());
        assert!(lines.iter().all(|line| line["status"] == 202), "{}", answer.text());
    }

    /// Returns a stream as the operator sees it.
    pub(crate) fn stream(&self, id: &str) -> Value {
        self.command(&["streams", "show", id])
    }

    /// Waits until `is` holds for the stream.
    pub(crate) fn until_stream(&mut self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut view = Value::Null;
        self.until_or(|gateway| {
            view = gateway.stream(id);
            if is(&view) { Ok(()) } else { Err(format!("stream {id}: {what}: {view}")) }
        });
        view
    }

    /// Waits until `is` holds for the gateway, and polls it meanwhile.
    pub(crate) fn until(&mut self, what: &str, mut is: impl FnMut(&mut Self) -> bool) {
        self.until_or(|gateway| if is(gateway) { Ok(()) } else { Err(what.to_owned()) });
    }

    /// Waits as [`Gateway::until`] does; the error describes what is missing yet.
    #[expect(clippy::disallowed_methods, reason = "a real process is waited for, in real time")]
    pub(crate) fn until_or(&mut self, mut is: impl FnMut(&mut Self) -> Result<(), String>) {
        let end = Instant::now() + PATIENCE;
        while let Err(what) = is(self) {
            assert!(Instant::now() < end, "not in time: {what}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            for line in tail.iter().rev() {
                println!("gateway: {line}");
            }
        }
    }
}

/// Returns the program as a command, without the variables of the caller's environment that it would read.
pub(crate) fn binary() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_setgate")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SETGATE") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}

/// Returns an event with a number, about the subject `key`.
pub(crate) fn event(number: u64, key: &str) -> Value {
    json!({
        "id": format!("event-{number}"),
        "sub_id": {"format": "opaque", "id": key},
        "events": {TYPE: {"number": number}},
    })
}

/// Returns two free ports, below those that the system gives to outgoing connections.
fn two_free_ports() -> (u16, u16) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = std::iter::repeat_with(|| {
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        10_000 + u16::try_from(number % 20_000).unwrap()
    })
    .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    (ports.next().unwrap(), ports.next().unwrap())
}

/// Copies a file or a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}
