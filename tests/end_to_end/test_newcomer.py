"""A newcomer's day: a fresh clone, and every command of README and docs as it stands there.

Commands run in the order of ``PAGES``, in one folder, as somebody would type them. Those that need
an account, or files of the reader's own, are parsed to the end instead; AWS's are run against an
emulator by tests/deploy.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from command_lines import parse, shell_lines

ROOT = Path(__file__).parents[2]
PAGES = (
    "docs/first-run.md",
    "README.md",
    "docs/report.md",
    "docs/catalogue.md",
    "docs/planning.md",
)
NOT_RUN = {
    "make test": "this test is part of what it runs",
    "make build": "tests/sam and tests/deploy build",
    "sam deploy": "tests/deploy does, to an emulator",
    "runs/sweeps": "sweeps are run by tests/end_to_end/test_sweep_local.py",
    "runs/small": "two runs of the reader's own",
    "--stack": "tests/deploy has a stack",
    "cosmicai watch": "needs an execution under way",
    "1e9": "a billion galaxies take a minute to simulate",
    "--check": "calibrates for a minute; tests/unit/test_simulation_published.py",
}
"""Part of a command → why it is not run here; it is parsed."""


def runs(command: str) -> bool:
    """Say whether a command is run, not only parsed."""
    return not any(part in command for part in NOT_RUN)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    """Its options, values and arguments are parsed to the end; nothing is called."""
    for command in shell_lines(page):
        program, *words = shlex.split(command.split(" > ")[0].split(" | ")[0])
        if program == "cosmicai":
            parse(words)


def install(clone: Path) -> None:
    """Do what `make setup` does, with the packages that are installed here.

    A clean checkout's own `make setup` is what runs these tests; it takes minutes.
    """
    venv = clone / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (site,) = venv.glob("lib/python3*/site-packages")
    own = [str(clone / "packages" / name) for name in ("fmilib", "cosmicai", "workbench")]
    (site / "clone.pth").write_text(
        "\n".join([*own, *(p for p in sys.path if "site-packages" in p)])
    )
    script = (Path(sys.executable).parent / "cosmicai").read_text().splitlines()
    (venv / "bin/cosmicai").write_text("\n".join([f"#!{venv}/bin/python", *script[1:], ""]))
    (venv / "bin/cosmicai").chmod(0o755)
    library = Path("packages/cosmicai/cosmicai/engines/_native.so")
    shutil.copy2(ROOT / library, clone / library)
    (venv / ".installed").touch()


def write_field(folder: Path) -> None:
    """Write what README's user has: frames of one field in five bands, and a table of objects."""
    rng = np.random.default_rng(0)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [400.5, 400.5]
    wcs.wcs.cdelt = [-0.396 / 3600, 0.396 / 3600]
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(60, 760, 70), np.arange(60, 760, 70)))
    ra, dec = wcs.all_pix2world(x, y, 0)
    fluxes = 10 ** (0.4 * (22.5 - rng.uniform(16, 17.5, len(x))))
    (folder / "frames").mkdir()
    rows, columns = np.mgrid[0:800, 0:800]
    for band, colour in zip("ugriz", (0.16, 0.45, 1.0, 1.5, 1.9), strict=True):
        pixels = rng.normal(0, 0.01, (800, 800))
        for flux, left, up in zip(fluxes, x, y, strict=True):
            near = np.s_[up - 16 : up + 17, left - 16 : left + 17]
            distance = (rows[near] - up) ** 2 + (columns[near] - left) ** 2
            pixels[near] += flux * colour / (2 * np.pi * 9) * np.exp(-distance / 18)
        header = wcs.to_header()
        header["BUNIT"] = "nanomaggy"
        image = fits.PrimaryHDU(pixels.astype(np.float32), header)
        image.writeto(folder / "frames" / f"frame-{band}-000001.fits")
    table = Table({"id": 10**17 + np.arange(len(x)), "ra": ra, "dec": dec})
    table.write(folder / "objects.csv")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_readme_and_first_pages_run_as_typed_in_a_fresh_clone(
    tmp_path: Path,
) -> None:
    clone = tmp_path / "cosmicai"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=120)
    install(clone)
    write_field(clone)
    typed = list(dict.fromkeys(c for page in PAGES for c in shell_lines(clone / page) if runs(c)))
    script = "set -e\n" + "".join(f"echo {shlex.quote('$ ' + c)}\n{c}\n" for c in typed)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["bash", "-c", script], cwd=clone, env=clean, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=850, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for made in ("report.html", "redshifts.csv", "redshifts.fits", "galaxies.fits", "plan.json"):
        assert (clone / made).stat().st_size > 0, made

    # Every row merges, by the identifier as it was.
    objects = Table.read(clone / "objects.csv")
    catalogue = Table.read(clone / "galaxies.fits")
    assert catalogue["object_id"].dtype.kind == "i"
    assert sorted(catalogue["object_id"]) == sorted(objects["id"])
    assert {"ra", "dec", "redshift", "flags"} <= set(catalogue.colnames)
    assert np.isfinite(catalogue["redshift"]).sum() > 0.9 * len(objects)
