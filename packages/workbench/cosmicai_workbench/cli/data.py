"""``cosmicai data``: make, split, inspect and upload data sets of galaxies."""

import json
from pathlib import Path
from typing import Annotated

import typer
from cosmicai.facts import BAND_NAMES, IMAGE_SIZE, MB

from cosmicai_workbench.cli.options import Json, Profile, Region
from cosmicai_workbench.cli.progress import progress_bar

app = typer.Typer(
    no_args_is_help=True,
    help="Make, split, inspect and upload data sets of galaxies.",
    epilog="Example: `cosmicai data make --galaxies 2000 survey.pt && "
    "cosmicai data split survey.pt partitions --size 25`",
)

Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="A column of the catalogue to carry into the predictions, besides object id, RA and "
        "Dec; may be given several times."
    ),
]
Side = Annotated[int, typer.Option(help="Pixels on a side of an image.")]
Bands = Annotated[
    str | None,
    typer.Option(
        help="Bands to take, in order: g,r,i; hsc-g=g,hsc-r=r to call them otherwise. Where the "
        "file names none: the names of all."
    ),
]
Middle = Annotated[
    int | None, typer.Option(help="Pixels on a side to cut out of the middle; all by default.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@app.command(epilog="Example: `cosmicai data make --galaxies 2000 --split test survey.pt`")
def make(
    output: Annotated[Path, typer.Argument(help="The .pt file to write.")],
    galaxies: Annotated[int, typer.Option("--galaxies", "-n", help="How many to make.")] = 2000,
    split: Annotated[
        str,
        typer.Option(help="Side of the train/test split; the shipped model has seen `train` only."),
    ] = "test",
    seed: Annotated[int, typer.Option(help="The same seed makes the same galaxies.")] = 0,
    side: Side = IMAGE_SIZE,
    bands: Annotated[
        str, typer.Option(help="Bands to write, in order, among those of SDSS.")
    ] = ",".join(BAND_NAMES),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a data set: real SDSS magnitudes and redshifts, painted images.

    Writes OUTPUT (a TensorDataset of image, magnitude, redshift), its metadata beside it
    (`.json`), and its catalogue (`.catalogue.csv`). Beyond the survey's rows (2,501 in `test`),
    galaxies are real ones moved to another redshift.
    """
    from cosmicai_workbench.data.bands import split_names
    from cosmicai_workbench.data.making import made_files, make_dataset
    from cosmicai_workbench.data.photometry import as_split

    with progress_bar("painting", galaxies, "galaxies") as advance:
        metadata = make_dataset(
            output,
            galaxies,
            as_split(split),
            seed,
            side=side,
            bands=split_names(bands),
            overwrite=overwrite,
            on_galaxies=advance,
        )
    files = [str(path) for path in made_files(output)]
    if as_json:
        typer.echo(json.dumps({"files": files, "metadata": metadata}, indent=2))
        return
    typer.echo(f"{output}: {galaxies:,} galaxies, {output.stat().st_size / MB:,.1f} MB")
    typer.echo(f"  {metadata['notice']}")


@app.command(epilog="Example: `cosmicai data split survey.pt partitions --size 25`")
def split(
    source: Annotated[Path, typer.Argument(help="A .pt file of a TensorDataset of galaxies.")],
    folder: Annotated[Path, typer.Argument(help="Receives 1.pt, 2.pt, …")],
    size: Annotated[
        float | None,
        typer.Option(help="Size of a partition in MB (1024² bytes): 100 MB hold 5,113 galaxies."),
    ] = None,
    galaxies: Annotated[
        int | None, typer.Option(help="Galaxies in a partition, instead of --size.")
    ] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(help="CSV or FITS table with a row for each galaxy of SOURCE, in its order."),
    ] = None,
    bands: Bands = None,
    side: Middle = None,
    keep: Keep = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Split a data set into numbered partitions; memory stays flat.

    Every partition holds its share of the catalogue (object id, RA, Dec, and columns to keep):
    of `--catalogue`, or else of the one in SOURCE. `--bands` and `--side` take part of the images,
    for a model that takes less.
    """
    from cosmicai.errors import InvalidInput
    from cosmicai.partition.reader import open_partition

    from cosmicai_workbench.data.bands import split_names
    from cosmicai_workbench.data.splitting import cut_of, galaxies_per_partition, split_dataset

    if (size is None) == (galaxies is None):
        raise InvalidInput("pass either --size (MB) or --galaxies, such as --size 25")
    with open_partition(source, batch_size=1) as reader:
        total, cut = reader.num_samples, cut_of(reader, split_names(bands), side)
    count = galaxies
    if count is None:
        count = galaxies_per_partition(size or 0, cut.shape.nbytes)
    with progress_bar("splitting", total, "galaxies") as advance:
        partitions = split_dataset(
            source,
            folder,
            count,
            objects=catalogue,
            keep=keep or (),
            bands=split_names(bands),
            side=side,
            overwrite=overwrite,
            on_galaxies=advance,
        )
    if as_json:
        typer.echo(json.dumps({"partitions": [str(path) for path in partitions]}, indent=2))
        return
    typer.echo(
        f"{folder}: {len(partitions):,} partitions of up to {count:,} galaxies, {total:,} in all"
    )


@app.command(epilog="Example: `cosmicai data inspect partitions/1.pt`")
def inspect(
    partition: Annotated[Path, typer.Argument(help="A .pt file.")],
    as_json: Json = False,
) -> None:
    """Show shapes, ranges, missing values and origin of a partition.

    The whole file is read, and its checksums are verified; nothing in it is executed.
    """
    from cosmicai_workbench.data.inspecting import inspect_partition, render_summary

    summary = inspect_partition(partition)
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
    else:
        render_summary(summary)


@app.command(epilog="Example: `cosmicai data preview partitions/1.pt galaxies.png`")
def preview(
    partition: Annotated[Path, typer.Argument(help="A .pt file.")],
    output: Annotated[Path, typer.Argument(help="The picture to write: .png, .jpg, .pdf, .svg.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Galaxies to draw.")] = 60,
) -> None:
    """Draw the first galaxies of a partition in colour, with their redshifts."""
    from cosmicai_workbench.data.preview import draw_preview

    drawn = draw_preview(partition, output, count)
    typer.echo(f"{output}: {drawn:,} galaxies of {partition}")


@app.command(epilog="Example: `cosmicai data from-fits frames/ objects.csv partitions --size 25`")
def from_fits(
    images: Annotated[
        Path, typer.Argument(help="Folder of calibrated FITS images, five bands per field.")
    ],
    catalogue: Annotated[
        Path,
        typer.Argument(help="Table (CSV, FITS, …): ra, dec; optionally magnitudes, redshift."),
    ],
    folder: Annotated[Path, typer.Argument(help="Receives 1.pt, 1.catalogue.csv, rejects.csv …")],
    size: Annotated[float, typer.Option(help="Size of a partition in MB (1024² bytes).")] = 25,
    aperture: Annotated[
        float, typer.Option(help="Radius, arcsec, of magnitudes where the catalogue has none.")
    ] = 3.0,
    registration: Annotated[
        str,
        typer.Option(
            help="`subpixel`: all bands interpolated onto the r band's pixels; `nearest`: each "
            "band cut at its own nearest pixel, nothing interpolated."
        ),
    ] = "subpixel",
    zero_point: Annotated[
        float | None,
        typer.Option(help="AB magnitude of one unit, where BUNIT names no unit of flux."),
    ] = None,
    side: Side = IMAGE_SIZE,
    keep: Keep = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Cut the objects of a catalogue out of your own images, into partitions.

    A field is five files whose names differ only in the band: SDSS frames
    (`frame-r-002583-2-0136.fits.bz2`) or single-band cutouts (`object7_r.fits`), with a WCS.
    Catalogue columns: `ra`, `dec` (degrees, or the column's unit); optionally `object_id`,
    `redshift`, `mag_u` … `mag_z`, `extinction_u` … `extinction_z`.

    Objects off the images, at an edge, or with masked pixels are counted and written to
    `rejects.csv` with the reason.
    """
    from cosmicai.partition.imaging import GalaxyShape

    from cosmicai_workbench.data.fits.converting import as_registration, convert
    from cosmicai_workbench.data.splitting import REJECTS_NAME, galaxies_per_partition

    result = convert(
        [images],
        catalogue,
        folder,
        galaxies_per_partition(size, GalaxyShape(side=side).nbytes),
        aperture=aperture,
        registration=as_registration(registration),
        zero_point=zero_point,
        side=side,
        keep=keep or (),
        overwrite=overwrite,
        bar=progress_bar,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    typer.echo(
        f"{folder}: {result.galaxies:,} galaxies from {result.fields} field(s) in "
        f"{len(result.partitions)} partition(s); magnitudes: {result.magnitudes}"
    )
    for reason, count in result.rejected.items():
        typer.echo(f"  left out: {count:,} {reason} (see {folder / REJECTS_NAME})")
    for notice in result.notices:
        typer.echo(f"  note: {notice}")


@app.command(
    epilog="Example: `cosmicai data convert legacysurvey/ partitions --bands g,r,z --side 64`"
)
def convert(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="HDF5, Parquet, .npz files, Zarr stores, or folders of them."),
    ],
    folder: Annotated[Path, typer.Argument(help="Receives 1.pt, 1.catalogue.csv, …")],
    size: Annotated[float, typer.Option(help="Size of a partition in MB (1024² bytes).")] = 25,
    galaxies: Annotated[
        int | None, typer.Option(help="Galaxies in a partition, instead of --size.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Array of images.")] = None,
    bands: Bands = None,
    side: Middle = None,
    magnitude: Annotated[
        list[str] | None,
        typer.Option(help="Array of magnitudes (galaxies, bands); or one per band, in order."),
    ] = None,
    redshift: Annotated[str | None, typer.Option(help="Array of known redshifts.")] = None,
    object_id: Annotated[str | None, typer.Option("--id", help="Array of object names.")] = None,
    ra: Annotated[str | None, typer.Option(help="Array of right ascensions, degrees.")] = None,
    dec: Annotated[str | None, typer.Option(help="Array of declinations, degrees.")] = None,
    pixel_scale: Annotated[float | None, typer.Option(help="Arcseconds of a pixel.")] = None,
    photometric_system: Annotated[str | None, typer.Option(help="Such as SDSS or DES.")] = None,
    zero_point: Annotated[
        float | None,
        typer.Option(help="AB magnitude of one unit of the images, to turn them into nanomaggies."),
    ] = None,
    keep: Keep = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn arrays of galaxies in other files into partitions; memory stays flat.

    The Multimodal Universe's layout is known: `image_array`, `image_band`, `object_id`, `ra`,
    `dec`. So are usual names; options name others. An error lists what a file holds.
    """
    from cosmicai_workbench.data.arrays.converting import convert_arrays
    from cosmicai_workbench.data.arrays.layout import Choices
    from cosmicai_workbench.data.bands import split_names

    result = convert_arrays(
        inputs,
        folder,
        Choices(
            image=image,
            magnitude=tuple(magnitude or ()),
            redshift=redshift,
            object_id=object_id,
            ra=ra,
            dec=dec,
            keep=tuple(keep or ()),
            bands=split_names(bands),
            side=side,
            pixel_scale=pixel_scale,
        ),
        size=size,
        galaxies=galaxies,
        photometric_system=photometric_system,
        zero_point=zero_point,
        overwrite=overwrite,
        bar=progress_bar,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    typer.echo(
        f"{folder}: {result.galaxies:,} galaxies in {len(result.partitions)} partition(s), "
        f"{result.side} × {result.side} pixels in {', '.join(result.bands)}"
    )
    typer.echo(f"  taken: {', '.join(f'{a} from {b}' for a, b in result.columns.items())}")
    for notice in result.notices:
        typer.echo(f"  note: {notice}")


@app.command(epilog="Example: `cosmicai data upload partitions s3://my-bucket/25MB`")
def upload(
    source: Annotated[Path, typer.Argument(help="A folder of partitions, or one .pt file.")],
    target: Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX")],
    endpoint_url: Annotated[
        str | None,
        typer.Option(envvar="AWS_ENDPOINT_URL", help="Another S3 than AWS's, or a local cloud."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove what is there of another data set.")
    ] = False,
    profile: Profile = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """Upload partitions and their catalogues to any S3.

    A folder is one data set: partitions of another one in the target are refused, or removed with
    `--replace`. A single file is added to what is there.

    Files that are there with the same size and checksum are not sent again, and an interrupted
    upload continues from its last part: run the same command again.
    """
    from cosmicai_workbench.cli.interruption import if_interrupted
    from cosmicai_workbench.data.uploading import (
        Others,
        find_files,
        parse_s3_url,
        s3_client,
        upload_files,
    )

    bucket, prefix = parse_s3_url(target)
    files = {(bucket, prefix + path.name): path for path in find_files(source)}
    s3 = s3_client(endpoint=endpoint_url, profile=profile, region=region)
    total = sum(path.stat().st_size for path in files.values())
    with (
        if_interrupted("the same command continues where it stopped"),
        progress_bar("uploading", total, "bytes") as advance,
    ):
        others: Others = "keep" if source.is_file() else "remove" if replace else "refuse"
        uploads = upload_files(s3, files, advance, others=others)
    sent = sum(upload.sent for upload in uploads)
    if as_json:
        objects = [
            {"key": upload.key, "bytes": upload.bytes, "sent": upload.sent} for upload in uploads
        ]
        typer.echo(json.dumps({"bucket": bucket, "objects": objects, "sent": sent}, indent=2))
        return
    typer.echo(
        f"s3://{bucket}/{prefix}: {len(uploads):,} files, {total / MB:,.1f} MB, of which "
        f"{sent / MB:,.1f} MB were sent and the rest was there"
    )
