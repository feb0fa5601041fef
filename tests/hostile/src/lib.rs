//! Hostile bytes: everything that decodes what a peer sends or a file holds is fed with damaged and invented bytes.
//!
//! A target decodes bytes as one door of the system does. It must neither panic, nor allocate far more than it was
//! given, nor take long. Inputs are made from valid ones by mutation, and in a guided build also from those that have
//! reached new code; what was found once is kept in `corpus` and tried first. Nothing is executed or committed here, and no process is attacked: that is `tests/abuse`.

pub mod guide;
pub mod measure;
pub mod mutate;
pub mod run;
pub mod target;
