from __future__ import annotations

import pytest

from myllm.errors import DownloadFailed, InvalidRequest, ModelNotFound
from myllm.store.hub import RemoteFile, Repository, is_safe_path
from myllm.store.names import validate_name
from myllm.store.pull_reference import Reference, check_whole, choose, installed_name, list_offers, parse_reference

R = "org/Some-GGUF"


def repository(*paths: str) -> Repository:
    return Repository(R, "0" * 40, tuple(RemoteFile(path, 10**9 + size, "sha256:" + "0" * 64) for size, path in enumerate(paths)))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (R, Reference(R)),
        (f"hf.co/{R}", Reference(R)),
        (f"{R}/", Reference(R)),
        (f"huggingface.co/{R}:Q8_0", Reference(R, "Q8_0")),
        (f"{R}:latest", Reference(R)),
        (f"{R}/x.gguf", Reference(R, path="x.gguf")),
        (f"{R}/sub/x-00001-of-00002.gguf", Reference(R, path="sub/x-00001-of-00002.gguf")),
        ("TheBloke/Llama-2.7B_x-GGUF:q4_k_m", Reference("TheBloke/Llama-2.7B_x-GGUF", "q4_k_m")),
    ],
)
def test_a_name_means_a_repository_a_quantisation_or_a_file(written: str, meant: Reference) -> None:
    assert parse_reference(written) == meant


@pytest.mark.parametrize(
    "written", ["", "x", "/", "a/", "/b", "../b", "a/..", "a--b/c", "a b/c", "a/b\n", "a/b\0", "ä/b", "a/" + "b" * 97, "hf.co/a"]
)
def test_what_names_no_repository_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="names no repository"):
        parse_reference(written)


@pytest.mark.parametrize(
    "written", ["a/b/c", "a/b/../c.gguf", "a/b//c.gguf", "a/b/.c.gguf", "a/b:Q4/c.gguf", "a/b/c\\d.gguf", "a/b/c.gguf:Q4"]
)
def test_what_names_no_file_of_a_repository_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="names no file"):
        parse_reference(written)


@pytest.mark.parametrize("written", ["a/b:", "a/b:x y", "a/b:..\\c", "a/b:" + "x" * 101])
def test_what_names_no_quantisation_is_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="names no quantisation"):
        parse_reference(written)


@pytest.mark.parametrize("written", ["http://hf.co/a/b", "https://huggingface.co/a/b", "hf://a/b", "file:///a/b.gguf"])
def test_a_url_is_refused_as_one(written: str) -> None:
    with pytest.raises(InvalidRequest, match="is a URL"):
        parse_reference(written)


@pytest.mark.parametrize(
    ("paths", "wanted", "label"),
    [
        (["x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-Q2_K.gguf"], None, "Q4_K_M"),
        (["x-Q8_0.gguf", "x-F16.gguf"], None, "Q8_0"),
        (["gpt-oss-20b-mxfp4.gguf"], "MXFP4", "MXFP4"),
        (["x.Q4_K_M.gguf", "x-IQ4_XS.gguf"], "iq4_xs", "IQ4_XS"),
        (["x-UD-Q4_K_XL.gguf", "x-Q4_K_M.gguf"], "Q4_K_XL", "UD-Q4_K_XL"),
        (["x-UD-Q4_K_M.gguf", "x-Q4_K_M.gguf"], "Q4_K_M", "Q4_K_M"),
        (["x-F16.gguf", "mmproj-F16.gguf"], "F16", "F16"),
        (["only-one.gguf"], None, "only-one"),
        (["x-bf16.gguf"], "BF16", "BF16"),
    ],
)
def test_the_offer_of_a_label_is_found(paths: list[str], wanted: str | None, label: str) -> None:
    assert choose(repository(*paths), Reference(R, wanted)).label == label


def test_what_is_not_offered_is_told_with_what_is_and_its_size() -> None:
    with pytest.raises(ModelNotFound, match=r"no 'Q5_K_M'; it offers: x \(1.0 GB\), Q8_0 \(1.0 GB\)$"):
        choose(repository("x.gguf", "x-Q8_0.gguf"), Reference(R, "Q5_K_M"))
    with pytest.raises(ModelNotFound, match=r"has several models; name one; it offers: a .*, b "):
        choose(repository("a.gguf", "b.gguf"), Reference(R))
    with pytest.raises(ModelNotFound, match="holds no GGUF file"):
        choose(repository(), Reference(R))
    with pytest.raises(ModelNotFound, match=r"and 60 more$"):
        choose(repository(*(f"{n}.gguf" for n in range(100))), Reference(R))


def test_two_models_of_one_quantisation_are_told_apart_by_their_files() -> None:
    both = repository("a-Q4_K_M.gguf", "b-Q4_K_M.gguf")

    assert [offer.label for offer in list_offers(both)] == ["a-Q4_K_M", "b-Q4_K_M"]
    assert installed_name(both, choose(both, Reference(R, path="b-Q4_K_M.gguf"))) == f"{R}/b-Q4_K_M"


def test_parts_are_one_offer_in_their_order_by_whichever_it_is_asked_for() -> None:
    parts = [f"Q8_0/x-Q8_0-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    split = repository(*reversed(parts))

    offers = [choose(split, Reference(R, path=path)) for path in parts] + [choose(split, Reference(R, "Q8_0"))]

    assert len(set(offers)) == 1
    assert [file.path for file in offers[0].files] == parts
    assert offers[0].size == sum(file.size for file in split.files)
    check_whole(split, offers[0])


@pytest.mark.parametrize("numbers", [["2-of-2"], ["1-of-2"], ["1-of-2", "2-of-3"], ["1-of-99999"], ["0-of-1"], ["1-of-0"]])
def test_a_split_model_that_is_not_whole_is_refused(numbers: list[str]) -> None:
    pairs = [number.split("-of-") for number in numbers]
    split = repository(*(f"x-{int(number):05}-of-{int(count):05}.gguf" for number, count in pairs))

    with pytest.raises(DownloadFailed, match="parts"):
        check_whole(split, list_offers(split)[0])


@pytest.mark.parametrize("path", ["x-Q4_K_M.gguf", "a b (1)-ü.gguf", "..x..gguf", "sub/-x-.gguf", "x" * 190 + ".gguf"])
def test_the_name_that_a_model_gets_is_one_that_a_model_may_have(path: str) -> None:
    name = installed_name(repository(path), list_offers(repository(path))[0])

    assert validate_name(name) == name


@pytest.mark.parametrize(
    "path", ["", "/x", "../x", "a/../x", "a/./x", "./x", "a//x", "x/", ".x", "a/.x", "a\\x", "a\0x", "a\nx", "x" * 300, "a/" * 9 + "x"]
)
def test_a_path_that_leads_elsewhere_is_not_safe(path: str) -> None:
    assert not is_safe_path(path)


@pytest.mark.parametrize("path", ["x.gguf", "a/b/x.gguf", "a b-ü.gguf", "a..b.gguf", "-x.gguf"])
def test_a_usual_path_is_safe(path: str) -> None:
    assert is_safe_path(path)
