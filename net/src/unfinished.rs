//! Request messages that have begun and are not complete: their bytes count against a budget, and they must be
//! complete within a time.
//!
//! gRPC collects a message before it decodes it, so a call costs memory before any service sees it. Here the length
//! prefixes in a request's body are followed (gRPC over HTTP/2, *Length-Prefixed-Message*). The size of one message
//! is tonic's to limit, and what a complete message may take is its service's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tower::util::MapRequestLayer;

use crate::budget::{Budget, Reservation};
use crate::connections::ConnectionInfo;
use crate::wire::status::no_room;

/// The most bytes of incomplete messages of one server.
const UNFINISHED_BYTES: usize = 128 << 20;

/// The longest time from the first byte of a message to its last.
const COMPLETE_WITHIN: Duration = Duration::from_secs(10);

/// The bytes of a message's prefix: a flag and the length.
const PREFIX: u8 = 5;

/// Watches the requests of a server. All of them share one budget.
pub(crate) fn layer() -> MapRequestLayer<impl Fn(Request<Body>) -> Request<Body> + Clone> {
    let budget = Budget::new("incomplete messages", UNFINISHED_BYTES);
    MapRequestLayer::new(move |request: Request<Body>| {
        let account = request.extensions().get().map(ConnectionInfo::account);
        let room = account.map(|account| budget.open(account));
        request.map(|body| Body::new(Watched::new(body, room)))
    })
}

/// The body of a request whose messages are watched.
struct Watched {
    body: Body,
    framing: Framing,
    /// The room of the incomplete message; `None` if the connection of the call is not known, as in tests.
    room: Option<Reservation>,
    /// When the incomplete message must be complete.
    due: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(body: Body, room: Option<Reservation>) -> Self {
        Self { body, framing: Framing::default(), room, due: None }
    }

    /// Counts the bytes of a frame.
    fn arrived(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let (was_begun, messages) = (self.framing.open > 0, self.framing.messages);
        self.framing.follow(bytes);
        if let Some(room) = &mut self.room {
            room.set(self.framing.open).map_err(|full| no_room(full.to_string()))?;
        }
        if self.framing.open == 0 {
            self.due = None;
        } else if !was_begun || self.framing.messages > messages {
            self.due = Some(Box::pin(sleep_until(Instant::now() + COMPLETE_WITHIN)));
        }
        Ok(())
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let counted = frame.data_ref().map_or(Ok(()), |bytes| this.arrived(bytes));
                Poll::Ready(Some(counted.map(|()| frame)))
            }
            Poll::Ready(other) => Poll::Ready(other),
            Poll::Pending => {
                let Some(due) = &mut this.due else { return Poll::Pending };
                ready!(due.as_mut().poll(context));
                this.due = None;
                let reason = format!("the message was not complete within {COMPLETE_WITHIN:?}");
                Poll::Ready(Some(Err(Status::deadline_exceeded(reason))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where a body stands in its messages.
#[derive(Debug, Default)]
struct Framing {
    /// The bytes of the prefix that have arrived.
    prefix: u8,
    /// The length that the prefix states, as far as it has arrived.
    length: u32,
    /// The bytes that the message still lacks after its prefix.
    missing: usize,
    /// The bytes of the incomplete message so far.
    open: usize,
    /// The count of complete messages.
    messages: u64,
}

impl Framing {
    fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                self.open += taken;
                bytes = bytes.get(taken..).unwrap_or_default();
            } else {
                // The first byte is the flag.
                if self.prefix > 0 {
                    self.length = self.length << 8 | u32::from(*first);
                }
                self.prefix += 1;
                self.open += 1;
                bytes = rest;
                if self.prefix < PREFIX {
                    continue;
                }
                self.missing = usize::try_from(self.length).unwrap_or(usize::MAX);
                (self.prefix, self.length) = (0, 0);
            }
            if self.missing == 0 {
                self.open = 0;
                self.messages += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::future::poll_fn;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic::codegen::Service as _;
    use tonic::service::Routes;

    use super::*;
    use crate::channel;
    use crate::identity::{Account, Expect, Security};
    use crate::limits::PeerLimits;
    use crate::serve::{Bound, Health};

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(bytes).unwrap().to_be_bytes());
        message.resize(message.len() + bytes, 7);
        message
    }

    fn open_of(bytes: &[u8]) -> usize {
        let mut framing = Framing::default();
        framing.follow(bytes);
        framing.open
    }

    #[test]
    fn only_the_last_incomplete_message_is_open() {
        assert_eq!(open_of(&[]), 0);
        assert_eq!(open_of(&message(0)), 0);
        assert_eq!(open_of(&message(10)), 0);
        assert_eq!(open_of(&message(10)[..3]), 3);
        assert_eq!(open_of(&message(10)[..14]), 14);
        assert_eq!(open_of(&[message(300), message(10)[..7].to_vec()].concat()), 7);
    }

    proptest! {
        #[test]
        fn the_frames_of_a_body_make_no_difference(
            sizes in proptest::collection::vec(0usize..600, 0..5),
            cuts in proptest::collection::vec(1usize..200, 1..20),
        ) {
            let bytes: Vec<u8> = sizes.iter().flat_map(|size| message(*size)).collect();
            let mut framing = Framing::default();
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap()).min(bytes.len());
                framing.follow(&bytes[at..end]);
                at = end;
                prop_assert_eq!(framing.open, open_of(&bytes[..at]));
            }
            prop_assert_eq!((framing.open, framing.messages), (0, sizes.len() as u64));
        }
    }

    fn account(last: u8) -> Account {
        Account::Address([10, 0, 0, last].into())
    }

    /// A body of these frames. After them it ends, or nothing more arrives.
    fn body(frames: Vec<Vec<u8>>, ends: bool) -> Body {
        let frames = frames.into_iter().map(|bytes| Ok::<_, Infallible>(Frame::data(Bytes::from(bytes))));
        match ends {
            true => Body::new(StreamBody::new(stream::iter(frames))),
            false => {
                let rest = stream::pending();
                Body::new(StreamBody::new(stream::StreamExt::chain(stream::iter(frames), rest)))
            }
        }
    }

    async fn next(watched: &mut Watched) -> Option<Result<Frame<Bytes>, Status>> {
        use http_body::Body as _;
        poll_fn(|context| Pin::new(&mut *watched).poll_frame(context)).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_message_that_stands_still_is_dropped() {
        let budget = Budget::new("messages", 100);
        let frames = vec![message(4), message(20)[..9].to_vec()];
        let mut watched = Watched::new(body(frames, false), Some(budget.open(account(1))));
        let began = Instant::now();
        assert!(next(&mut watched).await.unwrap().is_ok());
        assert!(next(&mut watched).await.unwrap().is_ok());
        let refused = next(&mut watched).await.unwrap().unwrap_err();
        assert_eq!((refused.code(), began.elapsed()), (Code::DeadlineExceeded, COMPLETE_WITHIN));
    }

    #[tokio::test(start_paused = true)]
    async fn between_messages_a_stream_may_be_silent() {
        let mut watched = Watched::new(body(vec![message(4)], false), None);
        assert!(next(&mut watched).await.unwrap().is_ok());
        let silent = tokio::time::timeout(COMPLETE_WITHIN * 10, next(&mut watched)).await;
        assert!(silent.is_err(), "{silent:?}");
    }

    #[tokio::test]
    async fn incomplete_messages_of_a_peer_have_half_of_the_budget() {
        let budget = Budget::new("messages", 100);
        let part = |bytes| vec![message(90)[..bytes].to_vec()];
        let mut first = Watched::new(body(part(40), false), Some(budget.open(account(1))));
        let mut second = Watched::new(body(part(11), false), Some(budget.open(account(1))));
        let mut other = Watched::new(body(part(50), false), Some(budget.open(account(2))));
        assert!(next(&mut first).await.unwrap().is_ok());
        let refused = next(&mut second).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(next(&mut other).await.unwrap().is_ok());
        // What is complete or dropped is given back.
        drop(first);
        let frames = vec![message(90)[..40].to_vec(), message(90)[40..].to_vec(), message(90)[..50].to_vec()];
        let mut third = Watched::new(body(frames, true), Some(budget.open(account(1))));
        for _ in 0..3 {
            next(&mut third).await.unwrap().unwrap();
        }
        assert!(next(&mut third).await.is_none());
    }

    #[tokio::test]
    async fn a_server_answers_a_call_whose_message_stands_still() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", bound.address());
        let stop = CancellationToken::new();
        let health = Health::new();
        let server = tokio::spawn(bound.serve(Routes::default(), health, stop.clone()));
        let (limits, security) = (PeerLimits::default(), Security::default());
        let mut channel = channel::connect(&url, &limits, &security, Expect::Coordinator).await.unwrap();
        let request = Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body(vec![message(20)[..9].to_vec()], false))
            .unwrap();
        poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let answer = tokio::time::timeout(COMPLETE_WITHIN * 3, channel.call(request)).await.unwrap().unwrap();
        let status = answer.headers().get("grpc-status").map(|status| status.to_str().unwrap());
        assert_eq!(status, Some("4"), "{answer:?}");
        drop(channel);
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
