//! What stands between a socket and the services: what the HTTP libraries would refuse, or would take, otherwise than we mean. Knows no
//! service and no Raft.

pub mod authority;
pub mod media;
