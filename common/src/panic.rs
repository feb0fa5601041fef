//! What a panic said. Catching panics is the supervisor's.

use std::any::Any;

/// The message of a panic, from what `JoinHandle::join` or `catch_unwind` gave. For a `Box`, pass
/// `payload.as_ref()`: `&payload` would be taken for a payload that is a box.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(message) = payload.downcast_ref::<&'static str>() {
        return (*message).to_owned();
    }
    match payload.downcast_ref::<String>() {
        Some(message) => message.clone(),
        None => "no message (the payload is not text)".to_owned(),
    }
}
