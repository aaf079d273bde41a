//! AWS's services over TLS, each on a loopback port of its own, as each has its own host at AWS: a connection to one is of
//! no use for another.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The services, by the names that requests are signed for.
const SERVICES: [&str; 3] = ["ec2", "iam", "sqs"];

/// A form's fields.
pub type Parameters = BTreeMap<String, String>;

/// One request, as far as the services read it.
#[derive(Debug)]
pub struct Call {
    /// The service that it came to.
    pub service: &'static str,
    /// The service that it is signed for; none, if it is not signed.
    pub signed_for: Option<String>,
    /// The API's action.
    pub action: String,
    /// What EC2's and IAM's requests say.
    pub given: Parameters,
    /// What SQS's requests say.
    pub body: Bytes,
}

/// An answer: HTTP's status, and the body in the service's own format.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// The body.
    pub content: String,
}

/// What stands behind the endpoints.
pub trait Services: Send + Sync + 'static {
    /// A connection was opened.
    fn connected(&self, service: &'static str);

    /// A call came.
    fn answer(&self, call: Call) -> impl Future<Output = Answer> + Send;
}

/// The endpoints; they stop when this is dropped.
pub struct Endpoints {
    urls: Vec<(&'static str, String)>,
    _servers: JoinSet<()>,
}

impl Endpoints {
    /// Serves on free ports of both loopback addresses, where there are two.
    pub async fn serve(services: &Arc<impl Services>, tls: &TlsAcceptor) -> Result<Self> {
        let mut servers = JoinSet::new();
        let mut urls = Vec::new();
        for service in SERVICES {
            let listener =
                TcpListener::bind(("127.0.0.1", 0)).await.context("listening on loopback")?;
            let port = listener.local_addr()?.port();
            urls.push((service, format!("https://localhost:{port}")));
            servers.spawn(accept(listener, service, tls.clone(), Arc::clone(services)));
            // "localhost" may be tried there first; a machine without IPv6 has no such address.
            if let Ok(listener) = TcpListener::bind(("::1", port)).await {
                servers.spawn(accept(listener, service, tls.clone(), Arc::clone(services)));
            }
        }
        Ok(Self { urls, _servers: servers })
    }

    /// The variables that tell AWS's SDKs where the services are.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        let variable = |(service, url): &(&str, String)| {
            (format!("AWS_ENDPOINT_URL_{}", service.to_uppercase()), url.clone())
        };
        self.urls.iter().map(variable)
    }
}

async fn accept(
    listener: TcpListener,
    service: &'static str,
    tls: TlsAcceptor,
    services: Arc<impl Services>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        services.connected(service);
        let (tls, services) = (tls.clone(), Arc::clone(&services));
        connections.spawn(async move {
            // An error here is the end of the function, or of its connection.
            let _ = serve(stream, service, tls, services).await;
        });
    }
}

async fn serve(
    stream: TcpStream,
    service: &'static str,
    tls: TlsAcceptor,
    services: Arc<impl Services>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let service = service_fn(|request| answer(Arc::clone(&services), service, request));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn answer(
    services: Arc<impl Services>,
    service: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (signature, target) = (header("authorization"), header("x-amz-target"));
    let body = request.into_body().collect().await?.to_bytes();
    let given: Parameters = form_urlencoded::parse(&body).into_owned().collect();
    // SQS's action stands in a header, the others' in the form.
    let action = match target.rsplit_once('.') {
        Some((_, action)) => action.to_owned(),
        None => given.get("Action").cloned().unwrap_or_else(|| "nothing".to_owned()),
    };
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let signed_for = signature.split('/').nth(3).map(str::to_owned);
    let call = Call { service, signed_for, action, given, body };
    Ok(respond(service, services.answer(call).await))
}

/// SQS speaks JSON, the others XML.
fn respond(service: &str, answer: Answer) -> Response<Full<Bytes>> {
    let kind =
        if service == "sqs" { "application/x-amz-json-1.0" } else { "text/xml;charset=UTF-8" };
    Response::builder()
        .status(answer.status)
        .header("content-type", kind)
        .body(Full::from(answer.content))
        .expect("a response of these parts is legal")
}
