//! Session tokens in the metadata of calls: clients attach them, services demand them before they read what
//! a caller sends.

use common::token::SessionToken;
use tonic::metadata::{Ascii, BinaryMetadataKey, BinaryMetadataValue, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::identity::{AUTHORIZATION, BEARER, Roles, Security, allowed};

/// The metadata key of the token.
const KEY: &str = "shardexec-token-bin";

/// A channel whose calls carry a token.
pub(super) type TokenChannel = InterceptedService<Channel, Attached>;

/// Attaches a token to each call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attached(pub(super) SessionToken);

impl Interceptor for Attached {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let mut value = BinaryMetadataValue::from_bytes(self.0.bytes());
        value.set_sensitive(true);
        request.metadata_mut().insert_bin(BinaryMetadataKey::from_static(KEY), value);
        Ok(request)
    }
}

/// A channel whose calls carry a client's token, if it has one.
pub type ClientChannel = InterceptedService<Channel, Bearer>;

/// The channel with calls that carry the token of `security`.
#[must_use]
pub fn client_channel(channel: Channel, security: &Security) -> ClientChannel {
    let value = security.token.as_ref().and_then(|token| {
        let mut value = MetadataValue::try_from(format!("{BEARER}{}", token.text())).ok()?;
        value.set_sensitive(true);
        Some(value)
    });
    InterceptedService::new(channel, Bearer(value))
}

/// Attaches a client's token to each call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok(request)
    }
}

/// Refuses calls of others than these roles before anything of the call is read. Which of them may make which
/// call, the call itself checks.
#[derive(Debug, Clone, Copy)]
pub struct Demand(pub Roles);

impl Interceptor for Demand {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        allowed(&request, self.0).map(|_| request)
    }
}

/// Refuses calls of others than a coordinator, and those without this token.
#[derive(Debug, Clone, Copy)]
pub struct Demanded(pub(super) SessionToken);

impl Interceptor for Demanded {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        allowed(&request, Roles::COORDINATOR)?;
        if stated(request.metadata())? == self.0 {
            return Ok(request);
        }
        Err(Status::unauthenticated("a shard obeys only the coordinator with which it has registered"))
    }
}

/// The token that a caller states.
pub(super) fn stated(metadata: &MetadataMap) -> Result<SessionToken, Status> {
    let bytes = metadata.get_bin(KEY).and_then(|value| value.to_bytes().ok());
    bytes.as_deref().and_then(SessionToken::from_bytes).ok_or_else(|| {
        Status::unauthenticated("the call has no session token; run the same build on both sides")
    })
}
