//! The message of a panic. Catching panics is the supervisor's task.

use std::any::Any;

/// Returns the message of a panic, from the payload that `JoinHandle::join` or `catch_unwind` returned.
/// For a `Box`, pass `payload.as_ref()`: with `&payload` the box itself would be the payload.
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
