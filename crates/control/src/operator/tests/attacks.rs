//! DNS rebinding, forged requests of web pages, missing and wrong tokens (hardening H6).

use super::*;

const READ: &str = "/admin/v1/streams";
const ACT: &str = "/admin/v1/streams/crm/pause";

#[tokio::test]
async fn everything_below_admin_needs_the_admin_token() {
    let fixture = fixture();
    let producer = format!("Bearer {}", fixture.producer.token.expose());
    for path in [
        READ,
        ACT,
        "/admin/v1/keys",
        "/admin/v1/store",
        "/admin/v1/parked",
        "/admin/v1/info",
        "/admin/v1/producers",
        "/admin/v1/receivers",
        "/admin/v1/x",
    ] {
        for (token, error) in
            [(None, None), (Some("Bearer sga_guess"), Some("invalid_token")), (Some(&*producer), Some("invalid_token"))]
        {
            for method in [Method::GET, Method::POST, Method::DELETE, Method::PUT] {
                let mut headers = vec![("host", "localhost")];
                headers.extend(token.map(|token| ("authorization", token)));
                let mut request = http::Request::builder().method(method).uri(path);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let response = fixture.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status(), 401, "{path}");
                let challenge = response.headers()["www-authenticate"].to_str().unwrap();
                assert_eq!(challenge.contains("error="), error.is_some(), "{challenge}");
            }
        }
    }
    let query = format!("{READ}?access_token={}", fixture.token.token.expose());
    assert_eq!(fixture.raw(Method::GET, &query, &[("host", "localhost")], "").await.status, 400);
    assert_eq!(fixture.asked().len(), 0);
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_421_even_with_the_token() {
    let fixture = fixture();
    let bearer = fixture.bearer();
    for (host, status) in [
        ("localhost:8081", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8081", 200),
        ("[::1]:8081", 200),
        ("ops.example", 200),
        ("rebound.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:8081", 421),
        ("10.0.0.7:8081", 421),
        ("0.0.0.0:8081", 421),
        ("", 400),
    ] {
        let answer = fixture.raw(Method::GET, READ, &[("host", host), ("authorization", &bearer)], "").await;
        assert_eq!(answer.status, status, "{host}");
    }
    assert_eq!(fixture.raw(Method::GET, READ, &[("authorization", &bearer)], "").await.status, 400, "no Host at all");
    let two = [("host", "localhost"), ("host", "localhost"), ("authorization", &*bearer)];
    assert_eq!(fixture.raw(Method::GET, READ, &two, "").await.status, 400);
}

#[tokio::test]
async fn probes_may_call_a_pod_by_its_address_and_by_nothing_else() {
    let fixture = fixture();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(fixture.raw(Method::GET, path, &[("host", "10.0.0.7:8081")], "").await.status, 200, "{path}");
        assert_eq!(fixture.raw(Method::GET, path, &[("host", "[fd00::7]:8081")], "").await.status, 200, "{path}");
        assert_eq!(fixture.raw(Method::GET, path, &[("host", "rebound.evil.example")], "").await.status, 421, "{path}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_even_with_the_token() {
    let fixture = fixture();
    let bearer = fixture.bearer();
    let own = [("host", "localhost:8081"), ("authorization", &*bearer)];
    for (name, value, status) in [
        ("origin", "http://localhost:8081", 200),
        ("origin", "http://localhost:3000", 403),
        ("origin", "https://evil.example", 403),
        ("origin", "http://localhost:8081.evil.example", 403),
        ("origin", "null", 403),
        ("origin", "file://", 403),
        ("sec-fetch-site", "same-origin", 200),
        ("sec-fetch-site", "none", 200),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
    ] {
        let headers = [&own[..], &[(name, value)]].concat();
        for (method, path) in [(Method::GET, READ), (Method::POST, ACT)] {
            let answer = fixture.raw(method, path, &headers, "").await;
            assert_eq!(answer.status, status, "{name}: {value}");
            assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")));
        }
    }
}

#[tokio::test]
async fn only_json_changes_anything() {
    let fixture = fixture();
    let bearer = fixture.bearer();
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonp",
        "",
    ] {
        let headers =
            [("host", "localhost"), ("authorization", &*bearer), ("content-type", kind), ("content-length", "2")];
        assert_eq!(fixture.raw(Method::POST, ACT, &headers, "{}").await.status, 415, "{kind}");
    }
    let nameless = [("host", "localhost"), ("authorization", &*bearer), ("content-length", "2")];
    assert_eq!(fixture.raw(Method::POST, ACT, &nameless, "{}").await.status, 415);
    let twice = [
        ("host", "localhost"),
        ("authorization", &*bearer),
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
        ("content-length", "2"),
    ];
    assert_eq!(fixture.raw(Method::POST, ACT, &twice, "{}").await.status, 415);
    assert_eq!(fixture.asked().len(), 0, "nothing was done");
}

#[tokio::test]
async fn nothing_changes_by_reading_and_no_preflight_is_answered() {
    let fixture = fixture();
    let bearer = fixture.bearer();
    let headers = [("host", "localhost"), ("authorization", &*bearer)];
    for path in
        [ACT, "/admin/v1/streams/crm/resume", "/admin/v1/parked/drop", "/admin/v1/keys/rotate", "/admin/v1/keys/revoke"]
    {
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            let status = fixture.raw(method.clone(), path, &headers, "").await.status;
            // `/parked/drop` also matches the route that reads the parked SET of that name.
            assert!(matches!(status, 404 | 405), "{method} {path}: {status}");
        }
    }
    let preflight = [
        ("host", "localhost:8081"),
        ("origin", "https://evil.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let answer = fixture.raw(Method::OPTIONS, READ, &preflight, "").await;
    assert_eq!(answer.status, 403);
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")));
    assert_eq!(fixture.asked().len(), 0, "nothing was done");
}

#[tokio::test]
async fn answers_are_kept_by_nobody_and_sniffed_by_nobody() {
    let fixture = fixture();
    for answer in [fixture.get(READ).await, fixture.raw(Method::GET, READ, &[("host", "x.example")], "").await] {
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}
