//! Certificates made for tests.
