//! Tests the disk that loses power, through the kernel: what programs see before the power cut, and
//! what is left after it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use lockstep_tests::torture::disk::Disk;

fn sync_directory(path: &Path) -> Result<()> {
    Ok(File::open(path)?.sync_all()?)
}

#[test]
fn what_was_not_synced_is_gone_after_a_power_cut() -> Result<()> {
    let Some(disk) = Disk::mount()? else { return Ok(()) };
    let directory = disk.path().join("d");
    fs::create_dir(&directory)?;
    sync_directory(disk.path())?;

    let mut kept = File::create(directory.join("kept"))?;
    kept.write_all(b"synced")?;
    kept.sync_data()?;
    sync_directory(&directory)?;
    kept.write_all(b" and not synced")?;
    drop(kept);
    fs::write(directory.join("lost"), "never synced")?;
    fs::hard_link(directory.join("kept"), directory.join("linked"))?;
    assert_eq!(fs::read_to_string(directory.join("linked"))?, "synced and not synced");
    assert_eq!(fs::read_dir(&directory)?.count(), 3);

    disk.cut_power();
    assert_eq!(fs::read_to_string(directory.join("kept"))?, "synced");
    let left: Vec<_> =
        fs::read_dir(&directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    assert_eq!(left, ["kept"]);
    Ok(())
}

#[test]
fn a_rename_survives_when_its_directory_is_synced() -> Result<()> {
    let Some(disk) = Disk::mount()? else { return Ok(()) };
    let (new, current) = (disk.path().join("new"), disk.path().join("CURRENT"));
    for (text, synced) in [("one", true), ("two", false)] {
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, &current)?;
        if synced {
            sync_directory(disk.path())?;
        }
    }
    assert_eq!(fs::read_to_string(&current)?, "two");
    disk.cut_power();
    assert_eq!(fs::read_to_string(&current)?, "one");
    File::options().append(true).open(&current)?.write_all(b" more")?;
    assert_eq!(fs::read_to_string(&current)?, "one more");
    Ok(())
}
