//! The routes of metrics and probes, the same for every program.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::health::Said;
use crate::metrics::CONTENT_TYPE;

/// What a program answers.
pub trait Probed: Send + Sync + 'static {
    /// Returns the metrics in the text format of Prometheus.
    fn metrics(&self) -> String;

    /// Says whether only a restart would help.
    fn live(&self) -> Said;

    /// Says which part is not ready, and why.
    fn ready(&self) -> impl Future<Output = Said> + Send;
}

/// Builds the routes `/metrics`, `/livez`, `/healthz` and `/readyz`.
pub fn router<P: Probed>(probed: P) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<P>))
        .route("/livez", get(live::<P>))
        .route("/healthz", get(live::<P>))
        .route("/readyz", get(ready::<P>))
        .with_state(Arc::new(probed))
}

async fn metrics<P: Probed>(State(probed): State<Arc<P>>) -> Response {
    show(StatusCode::OK, CONTENT_TYPE, probed.metrics())
}

async fn live<P: Probed>(State(probed): State<Arc<P>>) -> Response {
    answer(probed.live())
}

async fn ready<P: Probed>(State(probed): State<Arc<P>>) -> Response {
    answer(probed.ready().await)
}

fn answer(said: Said) -> Response {
    let status = if said.well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    show(status, "text/plain; charset=utf-8", said.text)
}

/// Answers with text that a browser shows as it is, and that nobody keeps.
fn show(status: StatusCode, kind: &'static str, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (
        status,
        headers.map(|(name, value)| (name, HeaderValue::from_static(value))),
        text,
    )
        .into_response()
}
