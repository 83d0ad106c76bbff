//! A receiver that records requests and answers as a test says.

use std::sync::Mutex;

use setgate_delivery::{
    axum::{Router, body::Body, extract::Request, response::Response},
    http::{HeaderMap, StatusCode},
    read_body,
};

use super::*;

/// A request with its header fields, its path and the ids in it, in order.
#[derive(Clone)]
pub(crate) struct Came {
    pub(crate) fields: HeaderMap,
    pub(crate) path: String,
    pub(crate) ids: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) came: Mutex<Vec<Came>>,
    /// The ids of each request that is under way.
    pub(crate) here: Mutex<Vec<Vec<String>>>,
}

/// A receiver that stops when the value is dropped.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    pub(crate) notes: Arc<Notes>,
    _stop: watch::Sender<bool>,
}

/// The status and body of an answer.
pub(crate) type Said = (u16, Json);

impl Sink {
    /// Starts a receiver that answers request number `n`, from 0, with the result of `answer`.
    pub(crate) async fn new<F: Future<Output = Said> + Send + 'static>(
        answer: impl Fn(usize, Vec<String>) -> F + Send + Sync + 'static,
    ) -> Self {
        let runtime = clock::system();
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.address();
        let (stop, stopped) = watch::channel(false);
        let notes = Arc::new(Notes::default());
        let (own, tasks, answer) = (notes.clone(), runtime.clone(), Arc::new(answer));
        let app = Router::new().fallback(move |request: Request| {
            let (notes, runtime, answer) = (own.clone(), tasks.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = read_body(body, 16 << 20, &runtime).await.unwrap();
                let body: Json = serde_json::from_slice(&body).unwrap();
                let ids: Vec<String> = body["sets"].as_object().unwrap().keys().cloned().collect();
                let number = {
                    let mut came = notes.came.lock().unwrap();
                    came.push(Came { fields: head.headers, path: head.uri.to_string(), ids: ids.clone() });
                    came.len() - 1
                };
                notes.here.lock().unwrap().push(ids.clone());
                let (status, body) = answer(number, ids.clone()).await;
                notes.here.lock().unwrap().retain(|other| *other != ids);
                let mut response =
                    Response::new(Body::from(if body.is_null() { String::new() } else { body.to_string() }));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                response
            }
        });
        runtime.spawn("sink", listener.serve(app, stopped, runtime.clone()));
        Self { address, notes, _stop: stop }
    }

    pub(crate) fn came(&self) -> Vec<Came> {
        self.notes.came.lock().unwrap().clone()
    }

    /// Returns the number of SETs of each request.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.came().iter().map(|came| came.ids.len()).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/sets?tenant=7", self.address)
    }
}

pub(crate) fn ack(ids: &[String]) -> Said {
    (202, json!({ "ack": ids }))
}
