//! A disk that can lose its power: a file system in memory, mounted through FUSE, which loses what
//! was not synced when the power is cut. It needs root (or fusermount) and /dev/fuse. This file
//! owns the mount; [`files`] decides what survives.

pub mod files;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use files::{Files, Inode, Refusal};

/// Lifetime of the kernel's caches: the kernel caches nothing, so it loses everything that this
/// disk loses.
const KEPT: Duration = Duration::ZERO;

/// Number of blocks that the disk reports as its size and as free.
const BLOCKS: u64 = 16 << 20;
const BLOCK_BYTES: u32 = 4096;

/// A mounted disk. All users of it must end before it is dropped.
pub struct Disk {
    files: Arc<Mutex<Files>>,
    session: Option<BackgroundSession>,
    point: TempDir,
}

impl Disk {
    /// Mounts an empty disk. Returns `None` and prints a notice where the system does not allow it.
    pub fn mount() -> Result<Option<Disk>> {
        let files = Arc::new(Mutex::new(Files::default()));
        let point = tempfile::tempdir()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("lockstep-power".into()), MountOption::NoSuid];
        let mounted = Session::new(Face(files.clone()), point.path(), &config).and_then(Session::spawn);
        match mounted {
            Ok(session) => Ok(Some(Disk { files, session: Some(session), point })),
            Err(error) if is_refusal(&error) => {
                println!("NOTICE: no power is cut, because FUSE cannot be mounted here: {error}");
                Ok(None)
            }
            Err(error) => Err(error).context("mounting a disk in memory"),
        }
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// Loses everything that was not synced. No process may have a file of the disk open.
    pub fn cut_power(&self) {
        self.files.lock().cut_power();
    }
}

/// Tells whether the error means missing rights, no device, or no fusermount.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::Unsupported)
        || !Path::new("/dev/fuse").exists()
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("{} stays mounted: {error}", self.point.path().display());
        }
    }
}

/// Handles the kernel's requests.
struct Face(Arc<Mutex<Files>>);

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Errno {
        match refusal {
            Refusal::Missing => Errno::ENOENT,
            Refusal::Exists => Errno::EEXIST,
            Refusal::NotADirectory => Errno::ENOTDIR,
            Refusal::IsADirectory => Errno::EISDIR,
            Refusal::NotEmpty => Errno::ENOTEMPTY,
        }
    }
}

fn attributes(files: &Files, inode: u64) -> Result<FileAttr, Refusal> {
    let (kind, perm, size) = match files.get(inode)? {
        Inode::File(file) => (FileType::RegularFile, 0o644, file.live.len() as u64),
        Inode::Directory { .. } => (FileType::Directory, 0o755, 0),
    };
    Ok(FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

impl Face {
    fn entry(&self, reply: ReplyEntry, made: impl FnOnce(&mut Files) -> Result<u64, Refusal>) {
        let mut files = self.0.lock();
        match made(&mut files).and_then(|inode| attributes(&files, inode)) {
            Ok(attributes) => reply.entry(&KEPT, &attributes, Generation(0)),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn done(&self, reply: ReplyEmpty, act: impl FnOnce(&mut Files) -> Result<(), Refusal>) {
        match act(&mut self.0.lock()) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refusal.into()),
        }
    }
}

impl Filesystem for Face {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |files| files.lookup(parent.0, name));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&self.0.lock(), inode.0) {
            Ok(attributes) => reply.attr(&KEPT, &attributes),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut files = self.0.lock();
        let resized = size.map_or(Ok(()), |size| files.file(inode.0).map(|file| file.resize(size as usize)));
        match resized.and_then(|()| attributes(&files, inode.0)) {
            Ok(attributes) => reply.attr(&KEPT, &attributes),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        self.entry(reply, |files| files.make_directory(parent.0, name));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(reply, |files| files.unlink(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.done(reply, |files| files.unlink(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        self.done(reply, |files| files.rename((parent.0, name), (to.0, to_name)));
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |files| files.link(inode.0, parent.0, name).map(|()| inode.0));
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let mut files = self.0.lock();
        let created = files.create(parent.0, name).and_then(|inode| {
            files.open(inode)?;
            attributes(&files, inode)
        });
        match created {
            Ok(attributes) => {
                reply.created(&KEPT, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.0.lock().open(inode.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.lock().file(inode.0) {
            Ok(file) => {
                let start = (offset as usize).min(file.live.len());
                let end = (start + size as usize).min(file.live.len());
                reply.data(&file.live[start..end]);
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.lock().file(inode.0) {
            Ok(file) => {
                file.write(offset as usize, bytes);
                reply.written(bytes.len() as u32);
            }
            Err(refusal) => reply.error(refusal.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.lock().close(inode.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.done(reply, |files| files.sync(inode.0));
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.done(reply, |files| files.sync(inode.0));
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut files = self.0.lock();
        let names = match files.names(inode.0) {
            Ok(names) => names.clone(),
            Err(refusal) => return reply.error(refusal.into()),
        };
        let listed = [(".".into(), inode.0), ("..".into(), inode.0)].into_iter().chain(names);
        for (place, (name, number)) in (1..).zip(listed).skip(offset as usize) {
            let kind = match files.get(number) {
                Ok(Inode::File(_)) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            if reply.add(INodeNo(number), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
    }
}
