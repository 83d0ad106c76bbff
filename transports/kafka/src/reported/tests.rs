use setgate_delivery::testkit::clock::{self, MockClock};

use super::*;

fn reported() -> (Arc<MockClock>, Arc<ReportedHealth>, Arc<Mutex<Vec<String>>>) {
    let mock = MockClock::at(1_700_000_000_000);
    let runtime = Runtime { clock: mock.clone(), ..clock::system() };
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let report = Arc::new(move |event| {
        seen.lock().push(match event {
            BrokerEvent::Up { .. } => "up".to_owned(),
            BrokerEvent::Down { cause, .. } => format!("down {}", cause.code),
            BrokerEvent::Figures { .. } => "figures".to_owned(),
        });
    });
    (mock, ReportedHealth::new("kafka/main".into(), report, runtime, Duration::from_secs(60)), events)
}

fn hear(reported: &ReportedHealth, code: RDKafkaErrorCode, reason: &str) {
    reported.on_error(&KafkaError::Global(code), reason);
}

#[test]
fn a_time_out_is_explained_by_what_was_said_last() {
    let (mock, reported, events) = reported();
    let since = reported.now();
    assert_eq!(reported.why(since), Why::Unknown);
    hear(&reported, RDKafkaErrorCode::BrokerTransportFailure, "127.0.0.1:9092/1: Connect failed: refused");
    hear(&reported, RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
    mock.advance(Duration::from_secs(60));
    let Why::Lost(cause) = reported.why(since) else { panic!("{:?}", reported.why(since)) };
    assert_eq!((cause.code, &*cause.text), ("unreachable", "127.0.0.1:9092/1: Connect failed: refused"));

    hear(&reported, RDKafkaErrorCode::Authentication, "sasl_ssl://b:9094/1: Authentication failed");
    let Why::Refused(cause) = reported.why(since) else { panic!("{:?}", reported.why(since)) };
    assert_eq!((cause.code, &*cause.text), ("credentials", "sasl_ssl://b:9094/1: Authentication failed"));
    // A later time-out is not explained by it.
    mock.advance(Duration::from_secs(91));
    assert_eq!(reported.why(since), Why::Unknown);
    assert_eq!(*events.lock(), ["down unreachable"]);
}

#[test]
fn what_changes_each_time_is_left_out_and_a_certificate_alert_is_said_in_words() {
    let (_, reported, _) = reported();
    let since = reported.now();
    hear(
        &reported,
        RDKafkaErrorCode::BrokerTransportFailure,
        "b:9092/1: Connect failed (nobody there) (after 2ms in state CONNECT, 31 identical error(s) suppressed)",
    );
    let Why::Lost(cause) = reported.why(since) else { panic!("{:?}", reported.why(since)) };
    assert_eq!(&*cause.text, "b:9092/1: Connect failed (nobody there)");
    hear(
        &reported,
        RDKafkaErrorCode::BrokerTransportFailure,
        "ssl://b:9093/1: error:0A000412:SSL routines::ssl/tls alert bad certificate (after 9ms in state UP)",
    );
    let Why::Refused(cause) = reported.why(since) else { panic!("{:?}", reported.why(since)) };
    assert_eq!(
        &*cause.text,
        "the broker does not take the gateway's client certificate: ssl://b:9093/1: error:0A000412:SSL routines::ssl/tls alert bad certificate"
    );
}

#[test]
fn credentials_that_worked_since_explain_nothing() {
    let (mock, reported, events) = reported();
    hear(&reported, RDKafkaErrorCode::SSL, "certificate verify failed");
    mock.advance(Duration::from_secs(1));
    reported.on_success();
    assert!(!matches!(reported.why(reported.now()), Why::Refused(_)));
    assert_eq!(*events.lock(), ["down tls", "up"]);
}

#[test]
fn a_silent_topic_beside_lively_ones_is_the_topics_own_matter() {
    let (mock, reported, _) = reported();
    let since = reported.now();
    mock.advance(Duration::from_secs(20));
    reported.on_success();
    mock.advance(Duration::from_secs(40));
    assert_eq!(reported.why(since), Why::Unknown, "nobody got through in the second half of its time");
    reported.on_success();
    assert_eq!(reported.why(since), Why::OnlyHere);
}

#[test]
fn an_alert_about_certificates_is_no_lost_connection() {
    for (text, refused) in [
        ("ssl://b:9095/1: error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42", true),
        ("error:0A000416:SSL routines::ssl/tls alert certificate unknown", true),
        ("error:0A000418:SSL routines::tlsv1 alert unknown ca", true),
        ("error:0A00045C:SSL routines::tlsv13 alert certificate required", true),
        ("Connection refused", false),
        ("Disconnected while requesting ApiVersion", false),
    ] {
        let (_, reported, _) = reported();
        hear(&reported, RDKafkaErrorCode::BrokerTransportFailure, text);
        assert_eq!(matches!(reported.why(reported.now()), Why::Refused(_)), refused, "{text}");
    }
}

#[test]
fn brokers_change_only_when_they_change() {
    let (mock, reported, events) = reported();
    for _ in 0..3 {
        reported.on_success();
    }
    hear(&reported, RDKafkaErrorCode::Authentication, "one broker of three");
    assert_eq!(*events.lock(), ["up"], "others work");
    mock.advance(Duration::from_secs(11));
    for _ in 0..5 {
        hear(&reported, RDKafkaErrorCode::Authentication, "all of them");
        mock.advance(Duration::from_secs(2));
    }
    reported.connected();
    assert_eq!(*events.lock(), ["up", "down credentials"], "a connection is no proof of credentials");
    reported.on_success();
    hear(&reported, RDKafkaErrorCode::AllBrokersDown, "3/3 brokers are down");
    reported.connected();
    reported.connected();
    assert_eq!(*events.lock(), ["up", "down credentials", "up", "down unreachable", "up"]);
}

#[test]
fn what_is_kept_is_short_and_harmless() {
    let (_, reported, _) = reported();
    hear(&reported, RDKafkaErrorCode::Authentication, &format!("\u{1b}[31m{}", "x".repeat(10_000)));
    let Why::Refused(cause) = reported.why(reported.now()) else { panic!() };
    assert!(cause.text.len() <= LONGEST && !cause.text.contains('\u{1b}'), "{}", cause.text);
}
