//! Many calls over one gRPC stream. Each call sends a payload; the answers come in the order of the calls.
//!
//! A call of its own costs headers, trailers and a task on both sides, which is most of the cost of a small
//! payload. The stream is opened by the first call, and again by the next call after it has ended. When a
//! stream ends, every call that waits on it fails; whether such a call is made again is its caller's decision.
//! Tests are in `pipe_tests.rs`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use common::endpoint::PeerError;
use futures_util::stream::{self, Stream};
use parking_lot::Mutex;
use proto::v1::{PayloadChunk, PayloadHeader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status, Streaming};

use super::payload::{PayloadError, ReceivedPayload, receive_next};
use super::status::from_status;
use crate::budget::Budget;
use crate::identity::Account;

/// The most calls that wait to be sent on one stream; further callers wait for room.
const CALLS_QUEUED: usize = 64;

/// The chunks of one payload.
pub(super) type Chunks = Box<dyn Iterator<Item = PayloadChunk> + Send>;

/// Who waits for an answer.
type Asker<R> = oneshot::Sender<Result<R, PeerError>>;

/// Those who wait for the answers to what was sent, in that order.
type Waiting<R> = Arc<Mutex<VecDeque<Asker<R>>>>;

fn ended() -> PeerError {
    PeerError::Unreachable("the stream ended".into())
}

/// The caller's end. Copies share the stream.
#[derive(Debug)]
pub(super) struct Pipe<R> {
    line: Arc<Mutex<Option<Arc<Line<R>>>>>,
}

impl<R> Clone for Pipe<R> {
    fn clone(&self) -> Self {
        Self { line: Arc::clone(&self.line) }
    }
}

impl<R> Default for Pipe<R> {
    fn default() -> Self {
        Self { line: Arc::default() }
    }
}

/// One open stream, which all copies of a pipe share until it ends.
#[derive(Debug)]
struct Line<R> {
    calls: mpsc::Sender<Call<R>>,
    ended: Arc<AtomicBool>,
    /// Passes the answers on; it ends with the stream, and is aborted with its last caller.
    _answers: AbortOnDropHandle<()>,
}

struct Call<R> {
    chunks: Chunks,
    asker: Asker<R>,
}

impl<R: Send + 'static> Pipe<R> {
    /// Sends a payload and waits for its answer for at most `limit`. `dial` opens the stream if there is none.
    /// A stream that gives no answer in time is given up.
    pub(super) async fn call<F>(
        &self,
        limit: Duration,
        chunks: impl Iterator<Item = PayloadChunk> + Send + 'static,
        dial: impl FnOnce(Calls<R>) -> F,
    ) -> Result<R, PeerError>
    where
        F: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
    {
        let (asker, answer) = oneshot::channel();
        let line = self.line(dial);
        let call = Call { chunks: Box::new(chunks), asker };
        let asked = async {
            line.calls.send(call).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        match timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => {
                line.ended.store(true, Ordering::Release);
                Err(PeerError::Unreachable(format!("no answer within {limit:?}")))
            }
        }
    }

    fn line<F>(&self, dial: impl FnOnce(Calls<R>) -> F) -> Arc<Line<R>>
    where
        F: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
    {
        let mut line = self.line.lock();
        match &*line {
            Some(open) if !open.ended.load(Ordering::Acquire) => Arc::clone(open),
            _ => Arc::clone(line.insert(Arc::new(Line::open(dial)))),
        }
    }
}

impl<R: Send + 'static> Line<R> {
    fn open<F>(dial: impl FnOnce(Calls<R>) -> F) -> Self
    where
        F: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
    {
        let (calls, queue) = mpsc::channel(CALLS_QUEUED);
        let waiting = Waiting::default();
        let stream = dial(Calls { queue, current: None, waiting: Arc::clone(&waiting) });
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let answers = tokio::spawn(async move {
            let error = pass_answers(stream, &waiting).await;
            over.store(true, Ordering::Release);
            // The first of them is the one that the error is about; the others only lost their stream.
            let mut error = Some(error);
            for asker in std::mem::take(&mut *waiting.lock()) {
                let _ = asker.send(Err(error.take().unwrap_or_else(self::ended)));
            }
        });
        Self { calls, ended, _answers: AbortOnDropHandle::new(answers) }
    }
}

/// Passes the answers to those who wait for them, until the stream ends; returns why it did.
async fn pass_answers<R>(
    stream: impl Future<Output = Result<Response<Streaming<R>>, Status>>,
    waiting: &Waiting<R>,
) -> PeerError {
    let mut answers = match stream.await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return from_status(&status),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                let Some(asker) = waiting.lock().pop_front() else {
                    return PeerError::Protocol("an answer to no question".into());
                };
                // Who no longer waits does not need it.
                let _ = asker.send(Ok(answer));
            }
            Ok(None) => return ended(),
            Err(status) => return from_status(&status),
        }
    }
}

/// The chunks of the calls of one stream, one call after another.
pub(super) struct Calls<R> {
    queue: mpsc::Receiver<Call<R>>,
    current: Option<Chunks>,
    waiting: Waiting<R>,
}

impl<R> Stream for Calls<R> {
    type Item = PayloadChunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PayloadChunk>> {
        loop {
            if let Some(chunk) = self.current.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(chunk));
            }
            let Some(Call { chunks, asker }) = ready!(self.queue.poll_recv(context)) else {
                return Poll::Ready(None);
            };
            self.waiting.lock().push_back(asker);
            self.current = Some(chunks);
        }
    }
}

/// The answers of one stream.
pub(super) type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

/// The server's end: answers the payloads of a stream one after another, counted on an account, until the peer
/// ends it or `stop` is cancelled. `admit` sees each header before the rest of its payload is received. A damaged
/// payload gets an answer like any other. If an error leaves it open where the next payload begins, the stream ends with it.
pub(super) fn answer_each<R, F>(
    chunks: Streaming<PayloadChunk>,
    limit: usize,
    (budget, account): (Budget, Account),
    stop: CancellationToken,
    admit: impl Fn(&PayloadHeader) -> Result<(), Status> + Send + Sync + 'static,
    answer: impl Fn(Result<ReceivedPayload, PayloadError>) -> F + Send + 'static,
) -> Answers<R>
where
    R: Send + 'static,
    F: Future<Output = R> + Send,
{
    Box::pin(stream::unfold(Some((chunks, stop, admit, answer)), move |state| {
        let (budget, account) = (budget.clone(), account.clone());
        async move {
            let (mut chunks, stop, admit, answer) = state?;
            let room = budget.open(account);
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                received = receive_next(&mut chunks, limit, room, &admit) => received,
            };
            let payload = match received {
                Ok(payload) => Ok(payload?),
                Err(error) if error.is_whole() => Err(error),
                Err(error) => return Some((Err(error.into()), None)),
            };
            let answered = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                answered = answer(payload) => answered,
            };
            Some((Ok(answered), Some((chunks, stop, admit, answer))))
        }
    }))
}
