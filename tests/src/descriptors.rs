//! What the process of the tests may have open. All tests of a process share its limit, and a shell
//! usually gives it 1,024 files and sockets. The nodes that it starts inherit what this raises.

use std::sync::Once;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than all tests of a process need, and no more than macOS lets a process have.
const WANTED: u64 = 10_240;

static RAISED: Once = Once::new();

/// Raises the soft limit as far as the hard one allows. Later calls do nothing.
pub(crate) fn raise() {
    RAISED.call_once(|| {
        let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
            let wanted = WANTED.min(hard);
            if soft >= wanted { Ok(()) } else { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) }
        });
        if let Err(error) = raised {
            eprintln!("the limit of open files and sockets stays as it is: {error}");
        }
    });
}
