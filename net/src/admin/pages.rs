//! The pages, by path.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tasks::supervise::{TaskState, TaskStatus};
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::Admin;
use crate::identity::{Roles, allowed_by};

/// The interval in which a quiet stream of events shows that it is alive.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// What the root page says to programs, and where there is no page for people.
const INDEX: &str = "\
/livez        whether the process lives
/readyz       whether it can do its work, and why not
/metrics      its metrics, for Prometheus
/status       its status
/events       what happens, from now on (server-sent events)
/blocks       the latest blocks; /blocks/N for one, /blocks/N/trace for Perfetto
/config       its options
/debug/tasks  its tasks and threads
";

/// What a page for people may do: nothing but run its own script and read the other pages.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Who may read the pages.
const READERS: Roles = Roles::READER.or(Roles::CLIENT).or(Roles::OPERATOR);

/// All pages.
pub(super) fn router(admin: Admin) -> Router {
    let operators = Router::new()
        .route("/config", get(config))
        .route("/debug/tasks", get(tasks))
        .layer(from_fn(|request, next| admit(Roles::OPERATOR, request, next)));
    Router::new()
        .route("/", get(home))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/events", get(events))
        .route("/blocks", get(blocks))
        .route("/blocks/{number}", get(block))
        .route("/blocks/{number}/trace", get(trace))
        .layer(from_fn(|request, next| admit(READERS, request, next)))
        .merge(operators)
        // Whether the process lives reveals nothing that an open port does not.
        .route("/livez", get(live))
        .fallback(|| async { (StatusCode::NOT_FOUND, INDEX) })
        .layer(from_fn_with_state(admin.clone(), only_this_machine))
        .with_state(admin)
}

/// Refuses requests for another host, where only this machine is meant: see [`Admin::at`].
async fn only_this_machine(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let named = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if admin.is_local && !named.is_some_and(is_this_machine) {
        let text = "these pages are for this machine: ask for its address or for localhost\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    next.run(request).await
}

/// Whether a host with or without a port is an address or `localhost`, which no name server decides.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    literal.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Lets callers with one of `roles` pass, by certificate or token.
async fn admit(roles: Roles, request: Request, next: Next) -> Response {
    let metadata = MetadataMap::from_headers(request.headers().clone());
    match allowed_by(request.extensions(), &metadata, roles) {
        Ok(_) => next.run(request).await,
        Err(status) => {
            let code = match status.code() {
                Code::Unauthenticated => StatusCode::UNAUTHORIZED,
                _ => StatusCode::FORBIDDEN,
            };
            (code, format!("{}\n", status.message())).into_response()
        }
    }
}

/// What a page shows if it cannot be made.
fn failed(reason: impl ToString) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reason.to_string())).into_response()
}

impl Admin {
    /// Makes a page on a thread that may block.
    async fn page<T: Send + 'static>(
        &self,
        make: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Box<Response>> {
        let admin = self.clone();
        self.blocking.run(move || make(&admin)).await.map_err(|error| Box::new(failed(error)))
    }
}

/// The page for people, if a browser asks.
async fn home(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let asked = accepted.is_some_and(|accept| accept.contains("text/html"));
    match admin.subject.home().filter(|_| asked) {
        Some(page) => {
            let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
            ([kind, (header::CONTENT_SECURITY_POLICY, POLICY)], page).into_response()
        }
        None => INDEX.into_response(),
    }
}

async fn live(State(admin): State<Admin>) -> Response {
    let failed = |task: &TaskStatus| task.state == TaskState::Failed;
    match admin.supervisor.status().into_iter().find(failed) {
        None => "ok\n".into_response(),
        Some(TaskStatus { name, kind, .. }) => {
            self::failed(format!("the {kind} {name} has failed; the process ends"))
        }
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let reasons = match admin.page(|admin| admin.subject.unready()).await {
        Ok(reasons) => reasons,
        Err(response) => return *response,
    };
    let (code, ready) = match reasons.is_empty() {
        true => (StatusCode::OK, true),
        false => (StatusCode::SERVICE_UNAVAILABLE, false),
    };
    (code, Json(json!({ "ready": ready, "reasons": reasons }))).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let made = admin.page(|admin| {
        let ready = admin.subject.unready().is_empty();
        admin.metrics.text(ready, admin.door.expiry(), || admin.subject.measure())
    });
    match made.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Ok(Err(error)) => failed(error),
        Err(response) => *response,
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    match admin.page(|admin| admin.subject.status()).await {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(error)) => failed(error),
        Err(response) => *response,
    }
}

async fn config(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.subject.config())
}

async fn tasks(State(admin): State<Admin>) -> Json<Value> {
    let row = |task: &TaskStatus| {
        json!({
            "name": *task.name, "kind": task.kind.as_str(), "policy": task.policy.as_str(),
            "state": task.state.as_str(),
        })
    };
    let tasks: Vec<Value> = admin.supervisor.status().iter().map(row).collect();
    Json(json!({ "tasks": tasks, "failed_jobs": admin.supervisor.failed_jobs() }))
}

async fn blocks(State(admin): State<Admin>) -> Response {
    match admin.page(|admin| admin.subject.blocks()).await {
        Ok(Some(blocks)) => Json(blocks).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, "this process keeps no blocks\n").into_response(),
        Err(response) => *response,
    }
}

async fn block(State(admin): State<Admin>, Path(number): Path<u64>) -> Response {
    of_block(number, admin.page(move |admin| admin.subject.block(number)).await)
}

async fn trace(State(admin): State<Admin>, Path(number): Path<u64>) -> Response {
    of_block(number, admin.page(move |admin| admin.subject.trace(number)).await)
}

fn of_block(number: u64, page: Result<Option<Value>, Box<Response>>) -> Response {
    match page {
        Ok(Some(page)) => Json(page).into_response(),
        Ok(None) => {
            let text = format!("block {number} is not among the latest blocks: see /blocks\n");
            (StatusCode::NOT_FOUND, text).into_response()
        }
        Err(response) => *response,
    }
}

async fn events(State(admin): State<Admin>) -> Response {
    let Some(events) = admin.subject.events() else {
        return (StatusCode::NOT_FOUND, "this process tells no events\n").into_response();
    };
    // A stream that waits for the next event must not hold up the end of the process.
    let stop = admin.supervisor.shutdown_token();
    let events = events.take_until(stop.cancelled_owned());
    let events = events.map(|event| Ok::<_, Infallible>(Event::default().data(event.to_string())));
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_name_server_decides_are_not_this_machine() {
        for own in ["127.0.0.1:7780", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:7780", "[::1]"] {
            assert!(is_this_machine(own), "{own}");
        }
        for other in
            ["example.org", "example.org:7780", "localhost.example.org", "127.0.0.1.example.org", "", "a b"]
        {
            assert!(!is_this_machine(other), "{other}");
        }
    }
}
