from pathlib import Path

from tinyworlds.data.contents import content_digest


def test_a_digest_is_remembered_until_the_file_is_replaced(tmp_path: Path) -> None:
    path, memo = tmp_path / "file", tmp_path / "memo.json"
    path.write_bytes(b"one")
    first = content_digest(path, memo=memo)
    noted = memo.stat().st_mtime_ns
    assert content_digest(path, memo=memo) == first
    assert memo.stat().st_mtime_ns == noted
    (tmp_path / "other").write_bytes(b"two")
    (tmp_path / "other").replace(path)
    assert content_digest(path, memo=memo) != first
