//! Opens regular files below a folder, and nothing else: no file outside the folder, and no pipe, whose opening may never end.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

/// A pipe or a device must not block the thread.
const FLAGS: OFlags = OFlags::CLOEXEC.union(OFlags::NONBLOCK);

/// Opens the regular file at `path` below `root`. Links are followed unless they lead out of `root`. Anything but a regular file
/// counts as missing ([`io::ErrorKind::NotFound`]).
pub(super) fn open_below(root: &Path, path: &Path) -> io::Result<(File, Metadata)> {
    #[cfg(target_os = "linux")]
    let opened = open_with_kernel(root, path);
    #[cfg(not(target_os = "linux"))]
    let opened = open_with_real_path(root, path);
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        // A file in place of a folder; a socket.
        Some(Errno::NOTDIR | Errno::NXIO) => missing(&error.to_string()),
        Some(Errno::XDEV) => io::Error::other("it is a link that leads out of the archive's folder"),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(missing("it is not a file")) }
}

fn missing(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, reason)
}

/// Lets the kernel check each step of the path while it opens the file.
#[cfg(target_os = "linux")]
fn open_with_kernel(root: &Path, path: &Path) -> io::Result<File> {
    use rustix::fs::{ResolveFlags, open, openat2};
    let Ok(relative) = path.strip_prefix(root) else { return Err(Errno::XDEV.into()) };
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | FLAGS;
    match openat2(folder, relative, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    {
        Ok(file) => Ok(file.into()),
        // Linux before 5.6, or a container that does not know this call; an absolute link, which may lead to the inside; a folder that
        // is renamed meanwhile.
        Err(Errno::NOSYS | Errno::PERM | Errno::XDEV | Errno::AGAIN) => open_with_real_path(root, path),
        Err(error) => Err(error.into()),
    }
}

/// Resolves the path before it is opened. A link that is exchanged in between is not noticed.
fn open_with_real_path(root: &Path, path: &Path) -> io::Result<File> {
    let real = path.canonicalize()?;
    if !real.starts_with(root) {
        return Err(Errno::XDEV.into());
    }
    fs::OpenOptions::new().read(true).custom_flags(FLAGS.bits().cast_signed()).open(real)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use super::*;

    type Open = fn(&Path, &Path) -> io::Result<File>;

    #[test]
    fn every_way_opens_files_below_the_folder_only() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path().canonicalize().unwrap();
        let day = root.join("day");
        fs::create_dir(&day).unwrap();
        fs::write(day.join("file"), "text").unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path().join("secret"), day.join("secret")).unwrap();
        symlink(outside.path(), day.join("outside")).unwrap();
        symlink("../day/file", day.join("inside")).unwrap();
        symlink(day.join("file"), day.join("absolute")).unwrap();
        symlink("loop", day.join("loop")).unwrap();

        #[cfg(target_os = "linux")]
        let ways: [Open; 2] = [open_with_kernel, open_with_real_path];
        #[cfg(not(target_os = "linux"))]
        let ways: [Open; 1] = [open_with_real_path];
        for open in ways {
            let open = |path: &str| open(&root, &day.join(path));
            for path in ["file", "inside", "absolute", "../day/file"] {
                let mut text = String::new();
                open(path).unwrap().read_to_string(&mut text).unwrap();
                assert_eq!(text, "text", "{path}");
            }
            for path in ["secret", "outside/secret", "../../secret"] {
                let error = open(path).unwrap_err();
                let expected = [Errno::XDEV, Errno::NOENT].map(|errno| Some(errno.raw_os_error()));
                assert!(expected.contains(&error.raw_os_error()), "{path}: {error}");
            }
            assert_eq!(open("none").unwrap_err().kind(), io::ErrorKind::NotFound);
            assert_eq!(open("loop").unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        }
    }

    #[test]
    fn what_is_no_file_counts_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("file"), "").unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        for path in ["", "pipe", "socket", "file/below", "none"] {
            let error = open_below(&root, &root.join(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path}: {error}");
        }
    }
}
