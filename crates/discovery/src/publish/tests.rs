use http::{Method, Request, header::ALLOW};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use setgate_jose::{Algorithm, Moment, Ring, Rotation, RsaBits};
use tower::ServiceExt as _;

use super::*;

fn keyring() -> Arc<Keyring> {
    let now = Moment::default();
    let ring = Ring::new(now).generate(Algorithm::EdDSA, RsaBits::default(), now, &Rotation::default(), false);
    Arc::new(Keyring::new(ring.unwrap()))
}

fn issuer(url: &str) -> PublishedIssuer {
    let url = IssuerUrl::parse(url).unwrap();
    PublishedIssuer::new(url, keyring(), Duration::from_secs(600), vec!["urn:ietf:rfc:8935".into()])
}

/// Sends a request and returns status, headers and body of the answer.
async fn ask(router: &Router, method: Method, path: &str, known: Option<&str>) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path).header("host", "attacker.example");
    if let Some(known) = known {
        request = request.header(IF_NONE_MATCH, known);
    }
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

async fn read(router: &Router, path: &str) -> Value {
    let (status, _, body) = ask(router, Method::GET, path, None).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn each_issuer_has_its_metadata_and_keys_at_its_own_path() {
    let (one, other) = (issuer("https://tr.example.com"), issuer("https://tr.example.com/tenant/two/"));
    let kids: Vec<_> = [&one, &other].map(|issuer| issuer.keyring.ring().describe()[0].kid.clone()).into();
    let router = routes(vec![one, other]).unwrap();
    let metadata = read(&router, "/.well-known/ssf-configuration").await;
    assert_eq!(
        metadata,
        json!({
            "spec_version": "1_0", "issuer": "https://tr.example.com",
            "jwks_uri": "https://tr.example.com/jwks.json",
            "delivery_methods_supported": ["urn:ietf:rfc:8935"],
        })
    );
    let metadata = read(&router, "/.well-known/ssf-configuration/tenant/two").await;
    // SSF 1.0, 7.2.4: the issuer keeps its final slash.
    assert_eq!(metadata["issuer"], "https://tr.example.com/tenant/two/");
    assert_eq!(metadata["jwks_uri"], "https://tr.example.com/tenant/two/jwks.json");
    assert_eq!(read(&router, "/jwks.json").await["keys"][0]["kid"], *kids[0]);
    assert_eq!(read(&router, "/tenant/two/jwks.json").await["keys"][0]["kid"], *kids[1]);
}

#[tokio::test]
async fn empty_arrays_are_left_out_and_what_is_set_is_written() {
    // SSF 1.0, 7.2.3.
    let mut issuer = issuer("https://tr.example.com");
    issuer.delivery_methods.clear();
    let text = serde_json::to_string(&issuer.metadata()).unwrap();
    assert!(!text.contains("[]") && !text.contains("null"), "{text}");
    issuer.default_subjects = Some(DefaultSubjects::None);
    issuer.critical_subject_members = vec!["tenant".into()];
    issuer.endpoints.status = Some("https://tr.example.com/ssf/status".into());
    issuer.endpoints.authorization_schemes = vec![AuthorizationScheme { spec_urn: "urn:ietf:rfc:6749".into() }];
    let written: Value = serde_json::from_str(&serde_json::to_string(&issuer.metadata()).unwrap()).unwrap();
    assert_eq!(written["default_subjects"], "NONE");
    assert_eq!(written["critical_subject_members"], json!(["tenant"]));
    assert_eq!(written["status_endpoint"], "https://tr.example.com/ssf/status");
    assert_eq!(written["authorization_schemes"], json!([{"spec_urn": "urn:ietf:rfc:6749"}]));
    assert_eq!(serde_json::from_value::<Metadata>(written).unwrap(), issuer.metadata());
}

#[tokio::test]
async fn answers_can_be_cached_and_revalidated() {
    let router = routes(vec![issuer("https://tr.example.com")]).unwrap();
    for (path, content_type) in
        [("/.well-known/ssf-configuration", "application/json"), ("/jwks.json", "application/jwk-set+json")]
    {
        let (status, headers, body) = ask(&router, Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[CONTENT_TYPE], content_type);
        assert_eq!(headers[CACHE_CONTROL], "public, max-age=600");
        let etag = headers[ETAG].to_str().unwrap().to_owned();
        assert!(etag.starts_with('"'), "strong");
        for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
            let (status, headers, body) = ask(&router, Method::GET, path, Some(&known)).await;
            assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
            assert_eq!(headers[ETAG], etag);
            assert_eq!(headers[CACHE_CONTROL], "public, max-age=600");
        }
        let (status, ..) = ask(&router, Method::GET, path, Some("\"other\"")).await;
        assert_eq!(status, StatusCode::OK);
        let (status, headers, empty) = ask(&router, Method::HEAD, path, None).await;
        assert_eq!((status, empty.len()), (StatusCode::OK, 0));
        assert_eq!(headers["content-length"], body.len().to_string());
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, headers, _) = ask(&router, method, path, None).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(headers[ALLOW], "GET,HEAD");
        }
    }
}

#[tokio::test]
async fn a_new_ring_is_served_at_once() {
    let issuer = issuer("https://tr.example.com");
    let keyring = issuer.keyring.clone();
    let router = routes(vec![issuer]).unwrap();
    let (_, headers, _) = ask(&router, Method::GET, "/jwks.json", None).await;
    let ring = keyring.ring();
    let gone = ring.describe()[0].kid.clone();
    keyring.install(ring.revoke(&gone, Moment::default()).unwrap());
    let (status, _, body) = ask(&router, Method::GET, "/jwks.json", headers[ETAG].to_str().ok()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!String::from_utf8_lossy(&body).contains(&gone));
}

#[tokio::test]
async fn paths_match_exactly_or_not_at_all() {
    let router = routes(vec![issuer("https://tr.example.com/a")]).unwrap();
    for (path, expected) in [
        ("/.well-known/ssf-configuration/a", StatusCode::OK),
        ("/.well-known/ssf-configuration/a?x=1", StatusCode::OK),
        ("/.well-known/ssf-configuration", StatusCode::NOT_FOUND),
        ("/.well-known/ssf-configuration/", StatusCode::NOT_FOUND),
        ("/.well-known/ssf-configuration/a/", StatusCode::NOT_FOUND),
        ("/.well-known/ssf-configuration/A", StatusCode::NOT_FOUND),
        ("/.well-known/ssf-configuration/b", StatusCode::NOT_FOUND),
        ("/.well-known/ssf-configuration/%61", StatusCode::NOT_FOUND),
        ("/.well-known/ssf-configuration//a", StatusCode::BAD_REQUEST),
        ("/.well-known/ssf-configuration/x/../a", StatusCode::BAD_REQUEST),
        ("/.well-known/ssf-configuration/./a", StatusCode::BAD_REQUEST),
        ("/.well-known/ssf-configuration/a%2Fb", StatusCode::BAD_REQUEST),
        ("/.well-known/ssf-configuration/%2e%2e/a", StatusCode::BAD_REQUEST),
        ("/.well-known/ssf-configuration/a%5Cb", StatusCode::BAD_REQUEST),
        ("/a/jwks.json", StatusCode::OK),
        ("/jwks.json", StatusCode::NOT_FOUND),
    ] {
        let (status, ..) = ask(&router, Method::GET, path, None).await;
        assert_eq!(status, expected, "{path}");
    }
}

#[test]
fn issuers_of_one_path_cannot_be_told_apart() {
    for (one, other) in [
        ("https://a.example.com/x", "https://b.example.com/x"),
        ("https://a.example.com/x", "https://a.example.com/x/"),
        ("https://a.example.com", "https://b.example.com/"),
    ] {
        assert!(matches!(routes(vec![issuer(one), issuer(other)]), Err(PublishError::SamePath(..))), "{one} {other}");
    }
}
