//! Advice on a delivery method that this build does not have.

/// Returns the remedy for an unknown method name: the list of methods, or how to build one that was left out.
pub(crate) fn remedy<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let left_out = cfg!(not(feature = "kafka-system-openssl"));
    if left_out && matches!(name, "kafka" | "urn:setgate:delivery:kafka") {
        return "this program was built without Kafka: build it without `--no-default-features`, or with `--features kafka`".into();
    }
    format!("these are: {}", known.into_iter().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_kafka_says_how_to_have_it() {
        let told = remedy("kafka", ["poll", "push"]);
        assert_eq!(told.contains("--features kafka"), cfg!(not(feature = "kafka-system-openssl")), "{told}");
        assert_eq!(remedy("pigeon", ["poll", "push"]), "these are: poll, push");
    }
}
