//! `setgate check --connect`: probes what the configuration names from this machine, without delivering anything.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use setgate_cli::{Context, Steps};
use setgate_delivery::{BoxFuture, spi::AnyMethod};

use super::{Finding, Served};
use crate::gateway::sources::ValidatedSource;

/// The most probes that run at once.
const AT_ONCE: usize = 16;

/// Probes methods and the places of streams and sources, and adds the findings in their order.
pub(super) async fn all(
    context: &Context,
    methods: &[Arc<dyn AnyMethod>],
    served: &[Served<'_>],
    sources: &[ValidatedSource],
    outbound: &setgate_net::Outbound,
    findings: &mut Vec<Finding>,
) {
    let of_methods = methods.iter().map(|method| of_method(method.as_ref()).boxed());
    let of_streams = served.iter().map(|served| of_stream(served, outbound).boxed());
    let of_sources = sources.iter().map(|source| of_source(source).boxed());
    let looks: Vec<BoxFuture<'_, Seen>> = of_methods.chain(of_streams).chain(of_sources).collect();
    let steps = Steps::new(&context.out, looks.len());
    let mut seen = stream::iter(looks).buffered(AT_ONCE);
    while let Some(Seen { what, found }) = seen.next().await {
        steps.done(&what);
        findings.extend(found);
    }
}

/// The findings of one probe.
struct Seen {
    what: String,
    found: Vec<Finding>,
}

async fn of_method(method: &dyn AnyMethod) -> Seen {
    let found = method.probe().await.into_iter().map(Finding::from).collect();
    Seen { what: format!("method {}", method.entry().name), found }
}

async fn of_source(source: &ValidatedSource) -> Seen {
    let what = format!("source {}", source.name());
    let found = source.method().probe_source(source.from.clone()).await.into_iter().map(Finding::from);
    let found = found.map(|found| Finding { what: format!("{what}: {}", found.what), ..found }).collect();
    Seen { what, found }
}

async fn of_stream(served: &Served<'_>, outbound: &setgate_net::Outbound) -> Seen {
    let what = format!("stream {}", served.stream.id);
    let found = served.channel.probe().await.into_iter().map(Finding::from);
    let found = found.map(|found| Finding { what: format!("{what}: {}", found.what), ..found });
    let found = found.chain(endpoint(served.stream, outbound).await).collect();
    Seen { what, found }
}

/// Checks whether an endpoint can be reached and passes the address guard, without sending a SET to it.
async fn endpoint(stream: &setgate_router::Declared, outbound: &setgate_net::Outbound) -> Option<Finding> {
    let url = stream.delivery.terms.get("endpoint_url").and_then(serde_json::Value::as_str)?;
    let what = format!("endpoint of {} at {}", stream.id, setgate_telemetry::endpoint_label(url));
    let Ok(url) = url.parse::<url::Url>() else {
        return Some(Finding::wrong(what, "it is no URL"));
    };
    let request = setgate_net::HttpRequest {
        method: axum::http::Method::OPTIONS,
        url,
        headers: axum::http::HeaderMap::new(),
        body: bytes::Bytes::new(),
        keep_body: 0,
        timeout: None,
    };
    // Any answer shows that the endpoint is there and that TLS works.
    Some(match outbound.client(&setgate_net::TlsPolicy::default()).send(request).await {
        Ok(answer) => Finding::good(format!("{what} answers ({})", answer.status.as_u16())),
        Err(error) => Finding::wrong(what, error.to_string()),
    })
}
