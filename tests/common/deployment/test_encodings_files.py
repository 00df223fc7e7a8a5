import json

import onnx

from common.deployment.encodings_files import encodings_files
from common.quantization.encodings import encodings


def test_all_forms_are_written_or_those_that_are_asked_for(qdq_onnx, tmp_path):
    names = [path.name for path in encodings_files(qdq_onnx, tmp_path)]
    assert names == ["encodings_legacy.json", "encodings_1.0.0.json", "encodings_2.0.0.json"]
    [asked] = encodings_files(qdq_onnx, tmp_path, ["2.0.0"], prefix="qdq_")
    assert asked == tmp_path / "qdq_encodings_2.0.0.json"
    assert json.loads(asked.read_text()) == encodings(onnx.load(str(qdq_onnx)), "2.0.0")
