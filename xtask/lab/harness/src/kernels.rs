//! Debian's kernels: the newest of a series, its image and its modules.

use std::collections::HashMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use xtask_support::debian::{self, Apt, Archive};
use xtask_support::paths::Paths;
use xtask_support::progress::Progress;
use xtask_support::stamp::{self, Stamp};

/// An unpacked kernel package.
pub struct Kernel {
    pub image: PathBuf,
    modules: PathBuf,
}

/// A module and, before it, all that it depends on.
pub struct Module {
    pub name: String,
    pub code: Vec<u8>,
}

/// Where a series is kept, if not in the machine's own sources.
type Home = Option<(Archive, &'static str)>;

/// The kernels that the lab knows, oldest first. One that newly appears is one line here.
const SERIES: [(&str, Home); 4] = [
    ("5.10", Some((Archive::Security, "bullseye-security"))),
    ("6.1", None),
    ("6.12", None),
    ("7.3", Some((Archive::Main, "trixie-backports"))),
];

/// The names of the kernels that the lab knows.
pub fn series() -> impl Iterator<Item = &'static str> {
    SERIES.iter().map(|(name, _)| *name)
}

/// Debian's builds of one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Plain,
    /// Fewer drivers: it boots faster.
    Cloud,
}

impl Flavour {
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "-amd64",
            Self::Cloud => "-cloud-amd64",
        }
    }
}

/// Names of the packages that make up the newest kernel of a series such as 6.12: one package up to 7.1, later one for
/// the image, one for the modules, and one for what belongs to both.
fn newest(apt: &Apt, series: &str, flavour: Flavour) -> Result<Vec<String>> {
    let prefixes = ["linux-image-", "linux-binary-unsigned-"];
    let release = |name: &str| -> Option<(bool, String)> {
        let split = name.starts_with(prefixes[1]);
        let name = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        let name = if split {
            name
        } else {
            name.strip_suffix("-unsigned")?
        };
        let version = name.strip_suffix(flavour.suffix())?;
        let flavoured = ["cloud", "rt"]
            .iter()
            .any(|f| version.split('-').any(|part| part == *f));
        let mine = version.starts_with(&format!("{series}.")) && !flavoured;
        // Kernels of later releases, built for an older one, are others.
        (mine && !version.contains(".deb")).then(|| (split, version.to_owned()))
    };
    let mut found: Vec<(bool, String)> = Vec::new();
    apt.names(|name| release(name).is_some())?
        .iter()
        .filter_map(|name| release(name))
        .for_each(|kernel| found.push(kernel));
    let (split, version) = found
        .into_iter()
        .max_by(|(_, a), (_, b)| debian::compare_versions(a, b))
        .with_context(|| format!("apt offers no kernel of the series {series}; try another with --kernel"))?;
    let release = format!("{version}{}", flavour.suffix());
    Ok(if split {
        vec![
            format!("linux-binary-unsigned-{release}"),
            format!("linux-modules-{release}"),
            format!("linux-base-{release}"),
        ]
    } else {
        vec![format!("linux-image-{release}-unsigned")]
    })
}

/// Downloads and unpacks where that has not been done.
pub fn set_up(paths: &Paths, series: &str, flavour: Flavour, progress: &Progress) -> Result<Kernel> {
    let tree = paths.lab().join(match flavour {
        Flavour::Plain => format!("kernel-{series}"),
        Flavour::Cloud => format!("kernel-{series}-cloud"),
    });
    let wanted = vec![series.to_owned()];
    if stamp::read(&tree, &wanted).is_none() {
        let mut apt = Apt::update(&paths.apt("lab"), progress)?;
        if let Some((_, Some((archive, release)))) = SERIES.iter().find(|(name, _)| *name == series) {
            apt = apt.with_release(*archive, release, progress)?;
        }
        stamp::start_over(&tree)?;
        let packages = apt.download(&newest(&apt, series, flavour)?, progress)?;
        let installed = packages.iter().map(debian::Package::label).collect();
        debian::unpack(&packages, &tree, progress)?;
        stamp::write(&tree, &Stamp { wanted, installed })?;
    }
    Kernel::in_tree(&tree)
}

impl Kernel {
    fn in_tree(tree: &Path) -> Result<Self> {
        let folder = ["lib/modules", "usr/lib/modules"].map(|folder| tree.join(folder));
        let folder = folder.iter().find(|folder| folder.is_dir());
        let modules = only_entry(folder.context("the kernel's package holds no modules")?)?;
        let release = modules
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let image = [
            tree.join("boot").join(format!("vmlinuz-{release}")),
            modules.join("vmlinuz.unsigned"),
        ];
        let image = image.into_iter().find(|image| image.is_file());
        Ok(Self {
            image: image.with_context(|| format!("{} holds no kernel", tree.display()))?,
            modules,
        })
    }

    /// The named modules with their dependencies, in an order in which they load. A module that is built into the
    /// kernel is left out.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut files = HashMap::new();
        find_modules(&self.modules.join("kernel"), &mut files)?;
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))
            .context("the kernel package holds no modules.builtin")?;
        let builtin: Vec<String> = builtin
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        let mut ordered = Vec::new();
        for name in names {
            add(&normal(name), &files, &builtin, &mut ordered)?;
        }
        Ok(ordered)
    }
}

/// There is no modules.dep in the package (depmod writes it at installation), so each module is asked itself.
fn add(
    name: &str,
    files: &HashMap<String, PathBuf>,
    builtin: &[String],
    ordered: &mut Vec<Module>,
) -> Result<()> {
    if ordered.iter().any(|module| module.name == name) || builtin.iter().any(|known| known == name) {
        return Ok(());
    }
    let file = files
        .get(name)
        .with_context(|| format!("this kernel has no module {name}"))?;
    let code = read_module(file)?;
    for dependency in depends(&code).with_context(|| format!("cannot read {}", file.display()))? {
        add(&dependency, files, builtin, ordered)?;
    }
    ordered.push(Module {
        name: name.to_owned(),
        code,
    });
    Ok(())
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if file.extension().is_none_or(|ext| ext != "xz") {
        return Ok(bytes);
    }
    let mut code = Vec::new();
    lzma_rs::xz_decompress(&mut Cursor::new(bytes), &mut code)
        .map_err(|error| anyhow::anyhow!("cannot decompress {}: {error:?}", file.display()))?;
    Ok(code)
}

/// The section .modinfo holds `key=value` strings, each ended by a zero byte.
fn depends(code: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(code)?;
    let section = elf.section_by_name(".modinfo").context("no section .modinfo")?;
    let names = section
        .data()?
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .map(String::from_utf8_lossy)
        .unwrap_or_default();
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect())
}

fn find_modules(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kvm-amd.ko.xz` is the module kvm_amd.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once('.')?;
    (rest == "ko" || rest.starts_with("ko.")).then(|| normal(name))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry?.path()),
        _ => bail!("{} should hold exactly one kernel", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_files_are_named_as_the_kernel_names_them() {
        assert_eq!(
            module_name(Path::new("kernel/arch/x86/kvm/kvm-amd.ko.xz")).as_deref(),
            Some("kvm_amd")
        );
        assert_eq!(
            module_name(Path::new("hwpoison-inject.ko")).as_deref(),
            Some("hwpoison_inject")
        );
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
