import json
import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "transformers", "tokenizers", "pyarrow", "datatrove", "accelerate"}

SCRIPT = """
import json, sys
from pathlib import Path
import serving.app
from serving.engine import Engine
from serving.llamacpp import LlamaCpp
from serving.models import Models
from serving.request import CompletionRequest
engine = Engine(LlamaCpp(Path(sys.argv[1])))
serving.app.create_app(Models.of(engine))
engine.submit(CompletionRequest(prefix="def f(x):\\n    return ")).future.result()
engine.close()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_completion_needs_nothing_of_training(gguf: Path) -> None:
    process = subprocess.run([sys.executable, "-c", SCRIPT, str(gguf)], capture_output=True, text=True, check=True)
    loaded = set(json.loads(process.stdout))
    assert "llama_cpp" in loaded
    assert not loaded & HEAVY
    assert "training" not in loaded
    assert process.stderr == "", "llama.cpp is silent"
