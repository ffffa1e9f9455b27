//! Creates files and folders with exact permissions, whatever the umask of the process.
//!
//! Transcripts, recordings, queued deliveries and secrets are personal or secret: no file is more open for a moment than
//! it stays.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

/// Read and write for the owner.
pub const FILE_MODE: u32 = 0o600;
/// Full access for the owner.
pub const FOLDER_MODE: u32 = 0o700;

/// Returns options to write a file that only its owner may use if it is created.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    options
}

/// Creates a folder and the missing ones above it, all with the permission bits `mode`, so that they survive a power cut.
pub fn create_folders(path: &Path, mode: u32) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
    for folder in missing.into_iter().rev() {
        match create_folder(folder, mode) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            created => created?,
        }
        if let Some(parent) = folder.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(())
}

fn create_folder(path: &Path, mode: u32) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, FOLDER_MODE);
    builder.create(path)?;
    set_mode(path, mode)
}

/// Sets the permission bits. The others stay, such as the one that hands a folder's group on to its content. A file system
/// without permission bits (FAT, some network shares) keeps its own.
#[cfg(unix)]
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let before = path.metadata()?.permissions().mode() & 0o7777;
    let after = before & 0o7000 | mode;
    if after == before {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(after)) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
        {
            Ok(())
        }
        set => set,
    }
}

/// Does nothing: this system has no permission bits.
#[cfg(not(unix))]
pub fn set_mode(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Makes the names in a folder durable. Windows cannot open folders, and does not need this.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).map_or(Ok(()), |folder| folder.sync_all())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn creates_every_missing_folder_with_the_mode() {
        let root = tempfile::tempdir().unwrap();
        let mode = |path: &str| root.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
        fs::create_dir(root.path().join("old")).unwrap();
        fs::set_permissions(root.path().join("old"), fs::Permissions::from_mode(0o2755)).unwrap();
        create_folders(&root.path().join("old/a/b"), 0o750).unwrap();
        create_folders(&root.path().join("old/a/b"), 0o700).unwrap();
        assert_eq!((mode("old"), mode("old/a"), mode("old/a/b")), (0o2755, 0o2750, 0o2750));
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create_folders(&file.join("a"), 0o700).is_err());
    }
}
