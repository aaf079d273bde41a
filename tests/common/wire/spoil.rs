//! Answers that arrive, and are not what was meant: cut short, mislabelled, drowned, or never quite there.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::time::sleep;

use super::Fault;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A byte of an answer that trickles in comes this long after the one before.
const A_DRIP: Duration = Duration::from_millis(100);
/// What an answer is drowned in, again and again.
const PADDING: &str = "of no interest to anybody\n";

/// The answer as it arrives.
pub async fn spoil(
    answer: hyper::Response<Full<Bytes>>,
    fault: Option<&Fault>,
) -> hyper::Response<Body> {
    let (mut parts, body) = answer.into_parts();
    let Ok(collected) = body.collect().await;
    let body = collected.to_bytes();
    let body = match fault {
        Some(Fault::CutsShort) => body.slice(..body.len() / 2),
        Some(Fault::Empties) => Bytes::new(),
        Some(Fault::Mislabels) => {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            body
        }
        Some(Fault::Floods(bytes)) => flooded(&body, *bytes),
        Some(Fault::Drips) => {
            return hyper::Response::from_parts(parts, dripping(body));
        }
        _ => body,
    };
    hyper::Response::from_parts(parts, Full::from(body).boxed_unsync())
}

/// The same answer with that many bytes more: in an element beside those that are read, or in such a field.
fn flooded(answer: &Bytes, bytes: usize) -> Bytes {
    let answer = std::str::from_utf8(answer).unwrap();
    let padding = PADDING.repeat(bytes / PADDING.len());
    let flooded = if let Some(rest) = answer.strip_prefix('{') {
        format!("{{\"Padding\":\"{}\",{rest}", padding.replace('\n', " "))
    } else {
        let (content, end) = answer.split_at(answer.rfind("</").unwrap());
        format!("{content}<padding>{padding}</padding>{end}")
    };
    Bytes::from(flooded)
}

fn dripping(answer: Bytes) -> Body {
    let bytes = stream::unfold(answer, async |mut rest| {
        if rest.is_empty() {
            return None;
        }
        sleep(A_DRIP).await;
        let first = rest.split_to(1);
        Some((Ok::<_, Infallible>(Frame::data(first)), rest))
    });
    StreamBody::new(bytes).boxed_unsync()
}
