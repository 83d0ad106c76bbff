//! The errors that librdkafka tells apart in words only; this is the one place that reads the text of an error.
//!
//! The library's error callback gives a code and a text, and for some faults the code of a wider one. Where the text
//! holds a code of Kafka or of OpenSSL, the code is read; where it holds words alone, each function names the place in
//! librdkafka that writes them.

use rdkafka::types::RDKafkaErrorCode as Code;

/// The number `ERR_LIB_SSL` of OpenSSL.
const LIB_SSL: u32 = 20;
/// The number `SSL_R_CERTIFICATE_VERIFY_FAILED` of OpenSSL.
const VERIFY_FAILED: u32 = 134;
/// The number `SSL_AD_REASON_OFFSET` of OpenSSL: the reason of a received alert is the alert's number plus this.
const ALERTS: u32 = 1000;

/// Returns whether the text holds the library's own words for a code.
///
/// A broker that refuses the handshake of SASL is reported with the code of wrong credentials and the words of the true
/// one (`rd_kafka_broker_handle_SaslHandshake` in `rdkafka_broker.c`).
fn names(text: &str, code: Code) -> bool {
    let shown = code.to_string();
    let words = shown.split_once('(').and_then(|(_, words)| words.strip_suffix(')'));
    words.is_some_and(|words| text.contains(words))
}

/// Returns whether a broker does not offer the mechanism by which the gateway wants to authenticate.
pub(crate) fn is_of_mechanism(code: Code, text: &str) -> bool {
    code == Code::UnsupportedSASLMechanism
        || code == Code::Authentication && names(text, Code::UnsupportedSASLMechanism)
}

/// Returns whether a port does not speak SASL.
pub(crate) fn is_without_sasl(code: Code, text: &str) -> bool {
    code == Code::IllegalSASLState || code == Code::Authentication && names(text, Code::IllegalSASLState)
}

/// Returns the reason that OpenSSL gives: `ERR_error_string_n` writes its packed code as `error:` and eight hexadecimal
/// digits, and `rd_kafka_ssl_error0` in `rdkafka_ssl.c` passes that on.
fn reason(text: &str) -> Option<u32> {
    let (_, behind) = text.split_once("error:")?;
    let packed = u32::from_str_radix(behind.get(..8)?, 16).ok()?;
    // OpenSSL 3 has the library above 23 bits, OpenSSL 1.1 above 24; reasons of TLS fit into 12.
    (packed >> 23 == LIB_SSL || packed >> 24 == LIB_SSL).then_some(packed & 0xfff)
}

/// Returns the alert by which a broker ended the connection (RFC 8446 §6).
///
/// With TLS 1.3 the alert comes after the handshake, where the library gives it the code of a lost connection.
pub(crate) fn alert(text: &str) -> Option<u32> {
    reason(text)?.checked_sub(ALERTS)
}

/// Returns whether a broker did not accept the gateway's certificate, or wants one.
pub(crate) fn is_certificate_alert(text: &str) -> bool {
    // handshake_failure, bad_certificate to certificate_unknown, unknown_ca, access_denied, certificate_required.
    alert(text).is_some_and(|number| matches!(number, 40 | 42..=46 | 48 | 49 | 116))
}

/// Returns whether a broker's certificate is for another name.
///
/// This is read by words alone: `X509_verify_cert_error_string` of OpenSSL, written by `rd_kafka_transport_ssl_verify`
/// in `rdkafka_ssl.c`.
pub(crate) fn is_other_name(text: &str) -> bool {
    let low = text.to_ascii_lowercase();
    ["hostname", "host name", "ip address"].iter().any(|words| low.contains(words))
}

/// Returns whether a broker's certificate is of an authority that is not trusted.
///
/// This is read by the code of OpenSSL if the handshake failed, and by the words of `X509_verify_cert_error_string`
/// (`unable to get local issuer certificate` and its like) if `rd_kafka_transport_ssl_verify` found it afterwards.
pub(crate) fn is_unknown_authority(text: &str) -> bool {
    reason(text) == Some(VERIFY_FAILED) || text.to_ascii_lowercase().contains("issuer")
}

/// Returns whether nothing listens at the address.
///
/// This is read by words alone: `strerror` of `ECONNREFUSED`, written by `rd_kafka_transport_io_event` in
/// `rdkafka_transport.c`.
pub(crate) fn is_nobody_there(text: &str) -> bool {
    text.to_ascii_lowercase().contains("connection refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: &str = "SASL SCRAM-SHA-512 mechanism handshake failed";

    #[test]
    fn a_code_of_kafka_is_read_by_the_librarys_own_words_for_it() {
        let mechanism =
            format!("{HANDSHAKE}: Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN");
        let state =
            format!("{HANDSHAKE}: Broker: Request not valid in current SASL state: broker's supported mechanisms: ");
        for (code, text, of_mechanism, without_sasl) in [
            (Code::Authentication, &*mechanism, true, false),
            (Code::Authentication, &state, false, true),
            (Code::UnsupportedSASLMechanism, "", true, false),
            (Code::IllegalSASLState, "", false, true),
            (Code::BrokerTransportFailure, &mechanism, false, false),
            (Code::Authentication, "SASL authentication error: Authentication failed", false, false),
        ] {
            assert_eq!(
                (is_of_mechanism(code, text), is_without_sasl(code, text)),
                (of_mechanism, without_sasl),
                "{text}"
            );
        }
    }

    #[test]
    fn a_code_of_openssl_is_read_whatever_its_words_are() {
        for (text, number, of_certificate) in [
            (
                "ssl://b:9095/1: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42",
                Some(42),
                true,
            ),
            ("error:0A000416:SSL routines::", Some(46), true),
            ("error:0A000418:SSL routines::tlsv1 alert unknown ca", Some(48), true),
            ("error:0A00045C:SSL routines::tlsv13 alert certificate required", Some(116), true),
            ("error:14094412:SSL routines:ssl3_read_bytes:sslv3 alert bad certificate", Some(42), true),
            ("error:0A000458:SSL routines::tlsv1 unrecognized name", Some(112), false),
            ("error:0A000086:SSL routines::certificate verify failed", None, false),
            ("error:02000412:system library::", None, false),
            ("alert bad certificate", None, false),
            ("error:0A0004", None, false),
        ] {
            assert_eq!((alert(text), is_certificate_alert(text)), (number, of_certificate), "{text}");
        }
    }

    #[test]
    fn what_has_no_code_is_read_by_its_words() {
        let failed = "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified";
        let issuer = "Failed to verify broker certificate: unable to get local issuer certificate";
        let name = "Failed to verify broker certificate: hostname mismatch";
        let refused = "Connect to ipv4#127.0.0.1:9092 failed: Connection refused";
        assert!(is_unknown_authority(failed) && is_unknown_authority(issuer) && !is_unknown_authority(name));
        assert!(is_other_name(name) && is_other_name("IP address mismatch") && !is_other_name(failed));
        assert!(is_nobody_there(refused) && !is_nobody_there("Disconnected: connection closed by peer"));
    }
}
