//! The answers of the admin API.

use super::*;

#[tokio::test]
async fn health_readiness_and_metrics_need_no_token() {
    let fixture = fixture();
    let host = [("host", "localhost")];
    assert_eq!(fixture.raw(Method::GET, "/healthz", &host, "").await.body, "ok\n");
    assert_eq!(fixture.raw(Method::GET, "/readyz", &host, "").await.status, 200);
    let metrics = fixture.raw(Method::GET, "/metrics", &host, "").await;
    assert_eq!(metrics.body, "setgate_up 1\n# EOF\n");
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    *fixture.not_ready.lock().unwrap() = Some("draining".into());
    let ready = fixture.raw(Method::GET, "/readyz", &host, "").await;
    assert_eq!((ready.status, &ready.body[..]), (503, &b"not ready: draining\n"[..]));
    assert_eq!(fixture.raw(Method::GET, "/healthz", &host, "").await.status, 200, "a draining process lives");
}

#[tokio::test]
async fn a_clock_that_is_not_believed_is_told_everywhere_and_confirmed() {
    let fixture = fixture_with(Fake { stray: true, ..Fake::default() }, OperatorConfig::default());
    let ready = fixture.raw(Method::GET, "/readyz", &[("host", "localhost")], "").await;
    assert_eq!(ready.body, "ready\nwarning: the wall clock is 7200 s ahead\n");
    assert_eq!(fixture.get("/admin/v1/streams").await.json()["warnings"], json!(["the wall clock is 7200 s ahead"]));
    let health = fixture.get("/admin/v1/store").await.json();
    assert_eq!(
        (&health["believed_time"], &health["clock"]),
        (&json!("2023-11-14T22:13:20Z"), &json!("2023-11-15T00:13:20Z"))
    );
    let confirmed = fixture.post("/admin/v1/store/confirm-clock", json!({})).await;
    assert_eq!((confirmed.status, confirmed.json()["offset_seconds"].as_i64()), (200, Some(7200)));
    assert_eq!(fixture.asked(), ["confirm clock"]);
    let nobody = fixture.raw(Method::POST, "/admin/v1/store/confirm-clock", &[("host", "localhost")], "").await;
    assert_eq!(nobody.status, 401);
}

#[tokio::test]
async fn metrics_can_be_switched_off() {
    let fixture = fixture_with(Fake::default(), OperatorConfig { metrics: false, ..OperatorConfig::default() });
    assert_eq!(fixture.raw(Method::GET, "/metrics", &[("host", "localhost")], "").await.status, 404);
}

#[tokio::test]
async fn streams_are_listed_and_changed() {
    let fixture = fixture();
    assert_eq!(fixture.get("/admin/v1/streams").await.json()["streams"][0]["id"], "crm");
    assert_eq!(fixture.get("/admin/v1/streams/crm").await.json()["waiting"], 3);
    assert_eq!(fixture.get("/admin/v1/streams/none").await.status, 404);
    assert_eq!(
        fixture.post("/admin/v1/streams/crm/pause", json!({ "reason": "night\u{202e}\u{7}" })).await.status,
        200
    );
    assert_eq!(fixture.post("/admin/v1/streams/crm/resume", json!({ "reissue": true })).await.status, 200);
    let asked = fixture.asked();
    assert!(asked[0].starts_with("pause crm: night") && !asked[0].contains(['\u{202e}', '\u{7}']), "{asked:?}");
    assert_eq!(asked[1], "resume crm true");
    assert_eq!(fixture.post("/admin/v1/streams/none/pause", json!({})).await.status, 404);
    let conflict = fixture.post("/admin/v1/streams/gone/pause", json!({})).await;
    assert_eq!(
        (conflict.status, conflict.headers["content-type"].to_str().unwrap()),
        (409, "application/problem+json")
    );
    assert_eq!(fixture.post("/admin/v1/streams/crm/pause", json!({ "why": "x" })).await.status, 400);
    let bearer = fixture.bearer();
    let headers = [("host", "localhost"), ("authorization", bearer.as_str())];
    assert_eq!(fixture.raw(Method::DELETE, "/admin/v1/streams/crm", &headers, "").await.status, 204);
    assert_eq!(fixture.raw(Method::DELETE, "/admin/v1/streams/none", &headers, "").await.status, 404);
}

#[tokio::test]
async fn an_action_without_a_body_takes_the_defaults() {
    let fixture = fixture();
    let bearer = fixture.bearer();
    let headers = [("host", "localhost"), ("authorization", bearer.as_str())];
    assert_eq!(fixture.raw(Method::POST, "/admin/v1/streams/crm/resume", &headers, "").await.status, 200);
    assert_eq!(fixture.asked(), ["resume crm false"]);
}

#[tokio::test]
async fn parked_sets_are_listed_shown_issued_again_and_dropped() {
    let fixture = fixture();
    let page = fixture.get("/admin/v1/parked?stream=crm&code=invalid_request&limit=1").await.json();
    assert_eq!(page["parked"][0]["parked_at"], "2023-11-14T22:14:20Z");
    assert_eq!(
        (&page["parked"][0]["txn"], &page["parked"][0]["issuer"]),
        (&json!("t"), &json!("https://idp.example.com"))
    );
    assert_eq!(page["next"], jti().as_str(), "a full page may have a successor");
    assert!(fixture.get("/admin/v1/parked").await.json()["next"].is_null());
    assert_eq!(fixture.get(&format!("/admin/v1/parked/{}", jti())).await.json()["claims"]["txn"], "t");
    assert_eq!(fixture.get("/admin/v1/parked/other").await.status, 404);
    fixture.asked();
    let again = fixture.post("/admin/v1/parked/reissue", json!({ "jtis": ["a"], "out_of_order": true })).await;
    assert_eq!(again.json()["results"][0]["new_jti"], "new");
    assert_eq!(
        fixture.post("/admin/v1/parked/drop", json!({ "jtis": ["a", "b"] })).await.json(),
        json!({ "dropped": 2 })
    );
    assert_eq!(fixture.asked(), ["reissue [\"a\"] true", "discard [\"a\", \"b\"]"]);
}

/// The members shown of streams and parked SETs are exactly those of the OpenAPI document.
#[tokio::test]
async fn what_is_shown_is_described() {
    let fixture = fixture();
    let document = fixture.raw(Method::GET, "/openapi.json", &[("host", "localhost")], "").await.json();
    let again = fixture.post("/admin/v1/parked/reissue", json!({ "jtis": ["a"] })).await.json();
    for (schema, shown) in [
        ("Stream", fixture.get("/admin/v1/streams/crm").await.json()),
        ("Parked", fixture.get(&format!("/admin/v1/parked/{}", jti())).await.json()),
        ("Reissued", again["results"][0].clone()),
    ] {
        let described = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let described: std::collections::BTreeSet<_> = described.keys().collect();
        assert_eq!(shown.as_object().unwrap().keys().collect::<std::collections::BTreeSet<_>>(), described, "{schema}");
    }
}

#[tokio::test]
async fn questions_that_make_no_sense_are_400() {
    let fixture = fixture();
    for path in [
        "/admin/v1/parked?limit=0",
        "/admin/v1/parked?limit=1001",
        "/admin/v1/parked?limit=x",
        "/admin/v1/parked?page=1",
    ] {
        assert_eq!(fixture.get(path).await.status, 400, "{path}");
    }
    assert_eq!(fixture.get("/admin/v1/parked?stream=none").await.status, 404);
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    for body in [json!({}), json!({ "jtis": [] }), json!({ "jtis": many }), json!({ "jtis": "a" }), json!([])] {
        assert_eq!(fixture.post("/admin/v1/parked/drop", body).await.status, 400);
    }
    let huge = "x".repeat(300_000);
    assert_eq!(fixture.post("/admin/v1/streams/crm/pause", json!({ "reason": huge })).await.status, 413);
    assert_eq!(fixture.asked().iter().filter(|what| what.starts_with("discard")).count(), 0);
}

#[tokio::test]
async fn keys_are_listed_rotated_revoked_and_imported() {
    let fixture = fixture();
    let old = fixture.keyring.signer(Algorithm::EdDSA).unwrap().kid().to_owned();
    let keys = fixture.get("/admin/v1/keys").await.json();
    assert_eq!((&keys["keys"][0]["kid"], &keys["keys"][0]["state"]), (&json!(old), &json!("current")));
    assert_eq!(keys["keys"][0]["issuer"], ISSUER);
    assert_eq!(fixture.get("/admin/v1/keys?issuer=https://other.example").await.status, 404);
    let keys = fixture.post("/admin/v1/keys/rotate", json!({ "algorithm": "EdDSA" })).await.json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(fixture.post("/admin/v1/keys/rotate", json!({ "algorithm": "EdDSA" })).await.status, 409);
    assert_eq!(fixture.post("/admin/v1/keys/rotate", json!({ "algorithm": "ES256" })).await.status, 404);
    assert_eq!(fixture.post("/admin/v1/keys/rotate", json!({ "algorithm": "HS256" })).await.status, 400);
    assert_eq!(fixture.post("/admin/v1/keys/revoke", json!({ "kid": old })).await.status, 200);
    assert!(fixture.keyring.withdrawn(&old));
    assert_eq!(fixture.post("/admin/v1/keys/revoke", json!({ "kid": "none" })).await.status, 404);
    let answer = fixture.post("/admin/v1/keys/import", json!({ "pem": "canary" })).await;
    assert_eq!(answer.status, 400);
    assert!(!String::from_utf8_lossy(&answer.body).contains("canary"));
}

#[tokio::test]
async fn the_gateway_says_what_it_is_and_who_may_put_events_in() {
    let fixture = fixture();
    let info = fixture.get("/admin/v1/info").await.json();
    assert_eq!((&info["issuers"], &info["methods"][0]["name"]), (&json!([ISSUER]), &json!("push")));
    assert_eq!(fixture.get("/admin/v1/store").await.json()["waiting"], 3);
    let producers = fixture.get("/admin/v1/producers").await;
    let shown = producers.json();
    assert_eq!((&shown["producers"][0]["events"], &shown["producers"][0]["subjects"]), (&json!("all"), &json!("any")));
    let text = String::from_utf8(producers.body.to_vec()).unwrap();
    let hash = fixture.producer.hash.to_string();
    assert!(!text.contains(hash.trim_start_matches("sha256:")), "{text}");
    let shown = fixture.get("/admin/v1/receivers").await;
    let receiver = &shown.json()["receivers"][0];
    assert_eq!((&receiver["name"], &receiver["streams"]), (&json!("crm"), &json!(["crm"])));
    let hash = fixture.receiver.hash.to_string();
    assert!(!String::from_utf8_lossy(&shown.body).contains(hash.trim_start_matches("sha256:")));
}

#[tokio::test]
async fn a_full_store_is_503_with_retry_after() {
    let fixture = fixture_with(Fake { full: true, ..Fake::default() }, OperatorConfig::default());
    let answer = fixture.post("/admin/v1/streams/crm/pause", json!({})).await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (503, "5"));
}

#[tokio::test]
async fn the_description_names_every_route_and_no_other() {
    let fixture = fixture();
    let served = fixture.get("/openapi.json").await.json();
    let bearer = fixture.bearer();
    let headers = [("host", "localhost"), ("authorization", bearer.as_str())];
    // A router does not list its routes, so they are read from its source.
    let texts = [
        include_str!("../about.rs"),
        include_str!("../keys.rs"),
        include_str!("../parked.rs"),
        include_str!("../sources.rs"),
        include_str!("../streams.rs"),
    ];
    let routes: Vec<_> = texts.iter().flat_map(|text| text.split(".route(").skip(1)).collect();
    assert!(routes.len() > 15, "{} routes were found", routes.len());
    for route in routes {
        let path = format!("/admin/v1{}", route.trim_start().trim_start_matches('"').split('"').next().unwrap());
        assert!(served["paths"][&path].is_object(), "{path} is not described");
    }
    for (path, operations) in served["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "crm").replace("{jti}", jti().as_str());
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let described = operations.get(method.as_str().to_ascii_lowercase()).is_some();
            let mut request = http::Request::builder().method(method.clone()).uri(&path);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let response = fixture.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status() != 405, described, "{method} {path}: {}", response.status());
        }
    }
}

#[tokio::test]
async fn sources_are_listed_and_their_parked_records_dropped() {
    let fixture = fixture();
    let source = fixture.sources.get("hr").unwrap().clone();
    let bad = |at: &str| Bad {
        at: at.into(),
        key: None,
        body: Bytes::from_static(b"{"),
        code: ErrorCode::InvalidRequest,
        text: "no".into(),
    };
    fixture.sources.park(&source, vec![bad("t/0/1"), bad("t/0/2"), bad("t/1/9")]).await.unwrap();
    let all = fixture.get("/admin/v1/sources").await.json();
    assert_eq!((&all["sources"][0]["name"], &all["sources"][0]["parked"]), (&json!("hr"), &json!(3)));
    let page = fixture.get("/admin/v1/sources/hr/parked?limit=2").await.json();
    assert_eq!((&page["parked"][0]["value"], &page["next"]), (&json!("{"), &json!("t/0/2")));
    let rest = fixture.get("/admin/v1/sources/hr/parked?after=t/0/2").await.json();
    assert_eq!((&rest["parked"][0]["at"], &rest["next"]), (&json!("t/1/9"), &Json::Null));
    for (body, status) in [(json!({}), 400), (json!({ "at": ["a"], "all": true }), 400), (json!({ "all": "x" }), 400)] {
        assert_eq!(fixture.post("/admin/v1/sources/hr/parked/drop", body).await.status, status);
    }
    assert_eq!(fixture.post("/admin/v1/sources/none/parked/drop", json!({ "all": true })).await.status, 404);
    assert_eq!(fixture.get("/admin/v1/sources/hr/parked?limit=101").await.status, 400);
    let drop = fixture.post("/admin/v1/sources/hr/parked/drop", json!({ "at": ["t/0/1", "t/0/7"] })).await;
    assert_eq!(drop.json()["dropped"], 1);
    assert_eq!(fixture.post("/admin/v1/sources/hr/parked/drop", json!({ "all": true })).await.json()["dropped"], 2);
}
