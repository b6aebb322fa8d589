//! Debian packages without root and without touching the machine: the machine's own sources, but lists, status
//! and cache of our own. apt checks every signature and checksum; packages are unpacked, never installed.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::command;
use crate::progress::Progress;
use crate::stamp;

/// Where Debian's package debian-archive-keyring has them.
const ARCHIVE_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Lists that this process has refreshed, by folder and additional source.
static REFRESHED: Mutex<BTreeSet<(PathBuf, String)>> = Mutex::new(BTreeSet::new());

/// Debian's archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    Main,
    Security,
}

pub struct Apt {
    folder: PathBuf,
    /// A release to prefer.
    preferred: Option<String>,
    /// Sources to use in place of the machine's.
    sources: Option<PathBuf>,
    /// Packages to take from another release (apt_preferences(5)).
    preferences: Option<PathBuf>,
}

/// A downloaded package.
pub struct Package {
    pub name: String,
    /// Its name has package, version and architecture.
    pub file: PathBuf,
}

impl Package {
    pub fn label(&self) -> String {
        self.file
            .file_stem()
            .map_or_else(String::new, |s| s.to_string_lossy().into_owned())
    }
}

impl Apt {
    /// Why this machine cannot download packages.
    pub fn unavailable() -> Option<String> {
        ["apt-get", "apt-cache", "dpkg", "dpkg-deb"]
            .into_iter()
            .find(|name| crate::paths::program(name).is_none())
            .map(|name| format!("this machine has no {name} to download Debian's packages with"))
    }

    /// Refreshes the lists of packages.
    pub fn update(folder: &Path, progress: &Progress) -> Result<Self> {
        if let Some(reason) = Self::unavailable() {
            bail!(reason);
        }
        let apt = Self {
            folder: folder.to_path_buf(),
            preferred: None,
            sources: None,
            preferences: None,
        };
        for dir in ["state/lists/partial", "cache/archives/partial", "log"] {
            let dir = folder.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        // Empty: apt believes that nothing is installed, so a package's closure is complete.
        fs::write(folder.join("status"), "")?;
        apt.read_lists("", progress);
        Ok(apt)
    }

    /// `source`: the additional one. Lists that this process has read are not read again.
    fn read_lists(&self, source: &str, progress: &Progress) {
        let key = (self.folder.clone(), source.to_owned());
        // Held until they are read: who finds them in the set uses them at once.
        let mut refreshed = REFRESHED.lock().unwrap_or_else(PoisonError::into_inner);
        if !refreshed.insert(key) {
            return;
        }
        progress.step("apt: reading the lists of packages");
        let log = self.folder.join("log/update.log");
        if let Err(error) = command::logged(self.get().arg("update"), &log, "apt-get update") {
            // One broken third-party source must not stop us: the packages that we want may be there.
            progress.note(format!("warning: {error:#}"));
        }
    }

    /// The same with Debian's backports in front, from the server that the machine takes Debian from.
    pub fn with_backports(self, progress: &Progress) -> Result<Self> {
        let (codename, server) = self.archive()?;
        let release = format!("{codename}-backports");
        let source = format!("{server} {release} main");
        let sources = self.add_source(&source, "deb")?;
        let apt = Self {
            preferred: Some(release),
            sources: Some(sources),
            ..self
        };
        apt.read_lists(&source, progress);
        Ok(apt)
    }

    /// The same with these packages alone (patterns of apt's) from backports: what they depend on is the machine's release's, where
    /// that suffices.
    pub fn with_some_of_backports(self, packages: &str, progress: &Progress) -> Result<Self> {
        let backports = self.with_backports(progress)?;
        let preferences = backports.folder.join("preferences");
        let release = backports.preferred.unwrap_or_default();
        let text = format!("Package: {packages}\nPin: release n={release}\nPin-Priority: 900\n");
        fs::write(&preferences, text).with_context(|| format!("cannot write {}", preferences.display()))?;
        Ok(Self {
            preferred: None,
            preferences: Some(preferences),
            ..backports
        })
    }

    /// The same for a system below a folder: what is installed there is not downloaded.
    pub fn beside(self, root: &Path) -> Result<Self> {
        let status = root.join("var/lib/dpkg/status");
        fs::copy(&status, self.folder.join("status"))
            .with_context(|| format!("cannot read {}", status.display()))?;
        Ok(self)
    }

    /// The same with another release as well, which need not be that of the machine.
    pub fn with_release(self, archive: Archive, release: &str, progress: &Progress) -> Result<Self> {
        let (_, mut server) = self.archive()?;
        if archive == Archive::Security {
            // A mirror has both side by side.
            let root = server.trim_end_matches('/');
            let root = root.strip_suffix("debian").with_context(|| {
                format!("cannot find debian-security on {server}: its path does not end in debian")
            })?;
            server = format!("{root}debian-security");
        }
        let source = format!("{server} {release} main");
        let sources = self.add_source(&source, "deb")?;
        let apt = Self {
            sources: Some(sources),
            ..self
        };
        apt.read_lists(&source, progress);
        Ok(apt)
    }

    /// The same with the source packages of another release.
    pub fn with_sources_of(self, release: &str, progress: &Progress) -> Result<Self> {
        let (_, server) = self.archive()?;
        let source = format!("{server} {release} main");
        let sources = self.add_source(&source, "deb-src")?;
        let apt = Self {
            sources: Some(sources),
            ..self
        };
        apt.read_lists(&format!("source {source}"), progress);
        Ok(apt)
    }

    /// The server that the machine's Debian comes from.
    pub fn server(&self) -> Result<String> {
        Ok(self.archive()?.1)
    }

    /// Codename of the machine's Debian, and the server that it comes from.
    fn archive(&self) -> Result<(String, String)> {
        let format = "$(LABEL) $(COMPONENT) $(CODENAME) $(REPO_URI)";
        let mut query = self.get();
        query.args(["indextargets", "--format", format, "Created-By: Packages"]);
        let targets = command::output(&mut query)?;
        targets
            .lines()
            .filter_map(|line| line.strip_prefix("Debian main ")?.split_once(' '))
            .find(|(codename, _)| !codename.contains('-'))
            .map(|(codename, server)| (codename.to_owned(), server.to_owned()))
            .context("this machine's apt sources do not include Debian's main archive")
    }

    /// A folder with the machine's sources and one more.
    fn add_source(&self, source: &str, kind: &str) -> Result<PathBuf> {
        let sources = self.folder.join("sources");
        stamp::start_over(&sources)?;
        for entry in fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
        {
            std::os::unix::fs::symlink(entry.path(), sources.join(entry.file_name()))?;
        }
        let signed = if Path::new(ARCHIVE_KEYS).is_file() {
            format!("[signed-by={ARCHIVE_KEYS}] ")
        } else {
            String::new()
        };
        let line = format!("{kind} {signed}{source}\n");
        fs::write(sources.join("poisontrace-lab.list"), line)?;
        Ok(sources)
    }

    /// The version that would be installed.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let text = command::output(self.cache().args(["policy", package]))?;
        let version = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Downloads packages and all that they depend on.
    pub fn download_closure(&self, packages: &[&str], progress: &Progress) -> Result<Vec<Package>> {
        // apt leaves out of its answer what an interrupted run has left in the cache.
        stamp::start_over(&self.archives())?;
        fs::create_dir_all(self.archives().join("partial"))?;
        let install = |extra: &str| {
            let mut get = self.get();
            get.args(["install", "--yes", "--no-install-recommends", extra])
                .args(packages);
            get
        };
        let files = self.files(&command::output(&mut install("--print-uris"))?)?;
        progress.step(format!(
            "apt: downloading {} packages for {}",
            files.len(),
            packages.join(", ")
        ));
        let log = self.folder.join("log/closure.log");
        command::logged(
            &mut install("--download-only"),
            &log,
            "apt-get install --download-only",
        )?;
        self.verified(files)
    }

    /// Downloads these packages alone.
    pub fn download(&self, packages: &[String], progress: &Progress) -> Result<Vec<Package>> {
        let mut get = self.get();
        let listed = command::output(get.args(["download", "--print-uris"]).args(packages))?;
        let files = self.files(&listed)?;
        progress.step(format!("apt: downloading {}", packages.join(", ")));
        let mut get = self.get();
        get.current_dir(self.archives()).arg("download").args(packages);
        command::logged(
            &mut get,
            &self.folder.join("log/download.log"),
            "apt-get download",
        )?;
        self.verified(files)
    }

    /// Downloads the source of a package as its authors published it, an archive, into an empty folder.
    pub fn download_source(
        &self,
        name: &str,
        release: &str,
        folder: &Path,
        progress: &Progress,
    ) -> Result<PathBuf> {
        stamp::start_over(folder)?;
        progress.step(format!("apt: downloading the source of {name}"));
        let mut get = self.get();
        get.current_dir(folder)
            .args(["source", "--download-only", "--tar-only"])
            .arg(format!("{name}/{release}"));
        command::logged(&mut get, &self.folder.join("log/source.log"), "apt-get source")?;
        fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().contains(".orig.tar."))
            .with_context(|| format!("apt did not deliver the source of {name}"))
    }

    /// Names of the packages that `name` depends on directly.
    pub fn depends(&self, name: &str) -> Result<Vec<String>> {
        let text = command::output(self.cache().args(["depends", "--important", name]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends:"))
            .map(|name| name.trim().to_owned())
            .collect())
    }

    /// All names that match, and no others.
    pub fn names(&self, matches: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let text = command::output(self.cache().arg("pkgnames"))?;
        Ok(text
            .lines()
            .filter(|name| matches(name))
            .map(str::to_owned)
            .collect())
    }

    fn archives(&self) -> PathBuf {
        self.folder.join("cache/archives")
    }

    /// apt prints `'URI' file size checksum` per package that it would fetch.
    fn files(&self, listed: &str) -> Result<Vec<Package>> {
        let packages: Vec<Package> = listed
            .lines()
            .filter(|line| line.starts_with('\''))
            .filter_map(|line| line.split_whitespace().nth(1))
            .filter_map(|file| {
                let name = file.split('_').next()?.to_owned();
                Some(Package {
                    name,
                    file: self.archives().join(file),
                })
            })
            .collect();
        if packages.is_empty() {
            bail!("apt offers no file to download; look at the machine's apt sources");
        }
        Ok(packages)
    }

    fn verified(&self, packages: Vec<Package>) -> Result<Vec<Package>> {
        if let Some(missing) = packages.iter().find(|package| !package.file.is_file()) {
            bail!(
                "apt did not deliver {}; see {}",
                missing.label(),
                self.folder.join("log").display()
            );
        }
        Ok(packages)
    }

    fn get(&self) -> Command {
        self.with_options("apt-get")
    }

    fn cache(&self) -> Command {
        self.with_options("apt-cache")
    }

    fn with_options(&self, program: &str) -> Command {
        let mut command = command::clean(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Log={folder}/log"),
            // Nothing of the machine's is locked or changed, so neither locks nor another user are needed.
            "Debug::NoLocking=1".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Lists of other sources stay for their next use.
            "APT::Get::List-Cleanup=0".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        if let Some(release) = &self.preferred {
            command.arg("-o").arg(format!("APT::Default-Release={release}"));
        }
        if let Some(sources) = &self.sources {
            command
                .arg("-o")
                .arg(format!("Dir::Etc::sourceparts={}", sources.display()));
        }
        if let Some(preferences) = &self.preferences {
            command
                .arg("-o")
                .arg(format!("Dir::Etc::Preferences={}", preferences.display()));
        }
        command
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Unpacks packages into one tree and forgets the downloads.
pub fn unpack(packages: &[Package], tree: &Path, progress: &Progress) -> Result<()> {
    fs::create_dir_all(tree).with_context(|| format!("cannot create {}", tree.display()))?;
    progress.step(format!("unpacking {} packages", packages.len()));
    for (number, package) in packages.iter().enumerate() {
        progress.detail(format!(
            "unpacking {} ({} of {})",
            package.name,
            number + 1,
            packages.len()
        ));
        command::output(command::clean("dpkg-deb").arg("-x").arg(&package.file).arg(tree))?;
        fs::remove_file(&package.file).ok();
    }
    Ok(())
}

/// Installs packages into the system below a folder, by its own dpkg, and forgets the downloads. Needs root.
pub fn install_into(root: &Path, packages: &[Package], log: &Path, progress: &Progress) -> Result<()> {
    const INBOX: &str = "var/cache/to-install";
    let inbox = root.join(INBOX);
    stamp::start_over(&inbox)?;
    for package in packages {
        let name = package.file.file_name().context("a package without a name")?;
        fs::rename(&package.file, inbox.join(name)).context("cannot move a package")?;
    }
    progress.step(format!("installing {} packages", packages.len()));
    let mut dpkg = command::clean("chroot");
    dpkg.arg(root)
        .args(["sh", "-c"])
        .arg(format!("exec dpkg --install /{INBOX}/*.deb"))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    command::logged(&mut dpkg, log, "dpkg --install")?;
    fs::remove_dir_all(&inbox).context("cannot remove the packages")
}

/// Debian's own ordering of versions.
pub fn compare_versions(left: &str, right: &str) -> Ordering {
    let newer = |a: &str, b: &str| {
        command::clean("dpkg")
            .args(["--compare-versions", a, "gt", b])
            .status()
            .is_ok_and(|s| s.success())
    };
    if newer(left, right) {
        Ordering::Greater
    } else if newer(right, left) {
        Ordering::Less
    } else {
        Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt() -> Apt {
        Apt {
            folder: PathBuf::from("/lists"),
            preferred: None,
            sources: None,
            preferences: None,
        }
    }

    #[test]
    fn files_are_read_from_what_apt_would_download() {
        let listed = "Reading package lists...\n\
                      'http://archive/pool/q/qemu_10.0_amd64.deb' qemu-system-x86_1%3a10.0_amd64.deb 123 SHA256:ab\n\
                      'http://archive/pool/s/seabios_1.16_all.deb' seabios_1.16_all.deb 45 SHA256:cd\n";
        let files = apt().files(listed).unwrap();
        let found: Vec<(String, String)> = files
            .iter()
            .map(|file| (file.name.clone(), file.label()))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "qemu-system-x86".to_owned(),
                    "qemu-system-x86_1%3a10.0_amd64".to_owned()
                ),
                ("seabios".to_owned(), "seabios_1.16_all".to_owned()),
            ]
        );
        assert!(files[0].file.starts_with("/lists/cache/archives"));
    }

    #[test]
    fn an_answer_without_files_is_an_error() {
        assert!(
            apt()
                .files("Reading package lists...\n0 upgraded, 0 newly installed.\n")
                .is_err()
        );
    }

    #[test]
    fn a_missing_download_is_named() {
        let package = Package {
            name: "seabios".to_owned(),
            file: PathBuf::from("/lists/cache/archives/seabios_1.16_all.deb"),
        };
        let error = apt().verified(vec![package]).err().unwrap().to_string();
        assert!(error.contains("seabios_1.16_all"), "{error}");
    }
}
