//! A subscriber written with the library alone, which sends what a test wants.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value as Json, json};
use setgate_delivery::http::{Request, Response};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use crate::subscription::jti;

/// A subscriber's socket.
pub(crate) struct Peer(pub(crate) WebSocketStream<TcpStream>);

pub(crate) fn request(address: SocketAddr, protocol: &str) -> Request<()> {
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    request
}

/// Opens a socket; returns the answer that refused it otherwise.
pub(crate) async fn open(
    request: Request<()>,
    address: SocketAddr,
) -> Result<(Peer, Response<Option<Vec<u8>>>), Response<Option<Vec<u8>>>> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let buffers = WebSocketConfig::default().max_message_size(Some(8 << 20));
    match tokio_tungstenite::client_async_with_config(request, tcp, Some(buffers)).await {
        Ok((socket, response)) => Ok((Peer(socket), response)),
        Err(Error::Http(response)) => Err(*response),
        Err(error) => panic!("{error}"),
    }
}

impl Peer {
    pub(crate) async fn of(address: SocketAddr, protocol: &str) -> Self {
        open(request(address, protocol), address).await.unwrap().0
    }

    pub(crate) async fn say(&mut self, object: Json) {
        self.0.send(Message::text(object.to_string())).await.unwrap();
    }

    pub(crate) async fn ack(&mut self, range: std::ops::Range<usize>) {
        let ids: Vec<_> = range.map(|at| jti(at).as_str().to_owned()).collect();
        self.say(json!({ "ack": ids })).await;
    }

    /// Returns the next object; pings and pongs are skipped.
    pub(crate) async fn object(&mut self) -> Json {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the numbers of the SETs of the next objects, until there are at least `count`.
    pub(crate) async fn sets(&mut self, count: usize) -> Vec<usize> {
        let mut all = Vec::new();
        while all.len() < count {
            let object = self.object().await;
            for named in object["sets"].as_object().unwrap().keys() {
                all.push((0..10_000).find(|at| jti(*at).as_str() == named).unwrap());
            }
        }
        all
    }

    /// Reads until the other side closes; returns code and reason.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
