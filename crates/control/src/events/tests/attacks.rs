//! Producer by issuer by type by subject, and events that only the gateway itself may issue (hardening H2, H3).

use super::*;

const PURGED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-purged";

fn about(uri: &str, iss: &str) -> Json {
    json!({ "events": { uri: {} }, "sub_id": { "format": "iss_sub", "iss": iss, "sub": "1" } })
}

#[tokio::test]
async fn each_pair_of_producer_issuer_type_and_subject_gets_what_it_may() {
    let (home, foreign) = ("https://idp.example", "https://other.example");
    let fixture = fixture();
    for (token, at_a) in [(&fixture.token, true), (&fixture.narrow, false)] {
        for issuer_a in [true, false] {
            for (uri, listed) in [(REVOKED, true), (PURGED, false)] {
                for (iss, granted) in [(home, true), (foreign, false)] {
                    let path = if issuer_a { "/a/events" } else { "/b/events" };
                    let request = http::Request::post(path)
                        .header("authorization", format!("Bearer {}", token.token.expose()))
                        .header("content-type", "application/json")
                        .body(Body::from(about(uri, iss).to_string()))
                        .unwrap();
                    let answer = fixture.send(request).await;
                    let case = format!("{path} {uri} {iss} all-at-a={at_a}");
                    if at_a != issuer_a {
                        assert_eq!(answer.status, 403, "{case}");
                        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
                        assert!(challenge.contains("insufficient_scope"), "{case}: {challenge}");
                    } else if at_a || (listed && granted) {
                        assert_eq!(answer.status, 202, "{case}");
                    } else {
                        assert_eq!(answer.status, 403, "{case}");
                        let rule = if listed { "subjects.iss" } else { "events" };
                        assert_eq!(answer.json()["rule"], rule, "{case}");
                    }
                }
            }
        }
    }
    assert_eq!(fixture.fake.taken.load(Ordering::SeqCst), 5, "four of the one, one of the other");
    let text = fixture.registry.text();
    for (rule, count) in [("events", 2), ("subjects.iss", 1)] {
        let line = format!("setgate_intake_events_refused_total{{producer=\"narrow-at-b\",rule=\"{rule}\"}} {count}");
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn only_the_gateway_speaks_of_streams() {
    let fixture = fixture();
    for uri in setgate_set::framework::RESERVED {
        let answer = fixture.one(&about(uri, "https://idp.example")).await;
        assert_eq!((answer.status, answer.json()["rule"].as_str()), (403, Some("framework_events")), "{uri}");
    }
    let both = json!({ "events": { REVOKED: {}, setgate_set::framework::VERIFICATION: {} }, "sub_id": { "format": "opaque", "id": "1" } });
    assert_eq!(fixture.one(&both).await.status, 403);
    assert_eq!(fixture.fake.taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn members_that_make_a_set_look_like_a_token_are_refused() {
    let fixture = fixture();
    for member in ["iss", "aud", "jti", "sub", "exp", "nbf", "scope", "client_id", "issuer", "nonce"] {
        let mut bad = event("x");
        bad[member] = "x".into();
        let answer = fixture.one(&bad).await;
        assert_eq!((answer.status, answer.json()["pointer"].as_str()), (400, Some(&*format!("/{member}"))), "{member}");
    }
}

#[tokio::test]
async fn credentials_are_validated_as_rfc_6750_says() {
    let fixture = fixture();
    let token = fixture.token.token.expose();
    let send = |path: &str, headers: Vec<(&str, String)>| {
        let mut request = http::Request::post(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        fixture.send(request.body(Body::from(event("x").to_string())).unwrap())
    };
    let good = format!("Bearer {token}");
    for (path, headers, status, error) in [
        ("/a/events", vec![], 401, None),
        ("/a/events", vec![("authorization", "Basic dTpw".into())], 401, None),
        ("/a/events", vec![("authorization", "Bearer sgp_wrong".into())], 401, Some("invalid_token")),
        (
            "/a/events",
            vec![("authorization", good.clone()), ("authorization", good.clone())],
            400,
            Some("invalid_request"),
        ),
        ("/a/events?access_token=x", vec![("authorization", good.clone())], 400, Some("invalid_request")),
        ("/b/events", vec![("authorization", good.clone())], 403, Some("insufficient_scope")),
        ("/a/events", vec![("authorization", good.clone())], 202, None),
    ] {
        let answer = send(path, headers).await;
        assert_eq!(answer.status, status, "{path}");
        let challenge = answer.headers.get("www-authenticate").map(|value| value.to_str().unwrap());
        assert_eq!(challenge.is_some(), status != 202);
        match (challenge, error) {
            (Some(challenge), Some(error)) => assert!(challenge.contains(&format!("error=\"{error}\"")), "{challenge}"),
            (Some(challenge), None) => assert!(!challenge.contains("error"), "{challenge}"),
            (None, _) => {}
        }
    }
    let form = http::Request::post("/a/events")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("access_token={token}")))
        .unwrap();
    assert_eq!(fixture.send(form).await.status, 401, "a token in the body is no credential");
    assert!(
        fixture.registry.text().contains("setgate_intake_requests_unauthorized_total 7"),
        "{}",
        fixture.registry.text()
    );
}

#[tokio::test]
async fn a_path_is_an_issuers_exactly_or_nobodys() {
    let fixture = fixture();
    for path in
        ["/events", "/a/events/", "/a//events", "/A/events", "/a%2Fevents", "/a/../a/events", "/b//events", "/c/events"]
    {
        let mut request = fixture.request("application/json", event("x").to_string());
        *request.uri_mut() = path.parse().unwrap();
        let response = fixture.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let mut request = fixture.request("application/json", "");
        *request.method_mut() = method.parse().unwrap();
        let response = fixture.app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 405, "{method}");
        assert!(!response.headers().keys().any(|name| name.as_str().starts_with("access-control")));
    }
}

#[tokio::test]
async fn foreign_json_is_i_json() {
    let fixture = fixture();
    let event = |sub_id: &str| format!(r#"{{"events":{{"{REVOKED}":{{}}}},"sub_id":{sub_id}}}"#);
    for sub_id in [
        r#"{"format":"email","email":"a@b.example","email":"victim@b.example"}"#,
        r#"{"format":"opaque","id":"\ud800"}"#,
        r#"{"format":"opaque","id":"a\u0000b"}"#,
    ] {
        let answer = fixture.post("application/json", event(sub_id)).await;
        assert_eq!(answer.status, 400, "{sub_id}");
    }
    let twice = format!(
        r#"{{"events":{{"{REVOKED}":{{}}}},"sub_id":{{"format":"opaque","id":"1"}},"sub_id":{{"format":"opaque","id":"2"}}}}"#
    );
    assert_eq!(fixture.post("application/json", twice).await.status, 400);
    let huge = format!(r#"{{"events":{{"{REVOKED}":{{"a":1e400}}}},"sub_id":{{"format":"opaque","id":"1"}}}}"#);
    assert_eq!(fixture.post("application/json", huge).await.status, 400);
    let mut latin = event(r#"{"format":"opaque","id":"x"}"#).into_bytes();
    let at = latin.iter().rposition(|b| *b == b'x').unwrap();
    latin[at] = 0xe4;
    assert_eq!(fixture.post("application/json", latin).await.status, 400);
    assert_eq!(fixture.fake.taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn two_issuers_with_one_path_are_refused_at_the_start() {
    let fake = Arc::new(Fake::default());
    let open = |issuers: &[&str]| {
        let intake = |issuer: &&str| Intake { issuer: (*issuer).into(), accept: Arc::new(Behind(fake.clone())) };
        let clock = ManualClock::at(1);
        world(WorldParts {
            issuers: issuers.iter().map(intake).collect(),
            guard: Arc::new(Guard::new(vec![], clock.clone())),
            config: IntakeConfig::default(),
            runtime: runtime(clock, 1),
            observed: Observed::default(),
        })
        .map(|_| ())
    };
    for two in [["https://a.example", "https://b.example/"], ["https://a.example/x", "https://a.example/x/"]] {
        let same = IssuerPathError::SamePath(two[0].into(), two[1].into());
        assert_eq!(open(&two), Err(same));
    }
    assert_eq!(open(&["https://a.example", "https://a.example/:x", "https://a.example/{x}"]), Ok(()));
    assert_eq!(open(&["urn:x"]), Err(IssuerPathError::NoPath("urn:x".into())));
}
