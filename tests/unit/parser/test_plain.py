# ruff: noqa: E501 - DAG files as literals are easier to read in one line

from __future__ import annotations

import ast
import random
import xml

import pytest

from dagbundle_parser.plain import is_plain
from dagbundle_parser.pruning import strip

HEAD = """
from datetime import datetime, timedelta
from airflow.sdk import DAG, task, dag, TaskGroup
import json
from airflow.providers.standard.operators.bash import BashOperator
"""

PLAIN = [
    'with DAG("a", schedule="@daily", default_args={"retries": 1}) as d:\n    t = BashOperator(task_id="t")\n    t >> t',
    'for i in range(3):\n    BashOperator(task_id=f"t_{i}", bash_command="echo {{ ds }}")',
    "@dag(schedule=None)\ndef flow():\n    @task\n    def one(x=1):\n        return x + 1\n    one()\nflow()",
    'x = json.dumps({"a": [timedelta(days=1).total_seconds()]})',
    'with DAG("a") as d:\n    with TaskGroup("g") as g:\n        a = BashOperator(task_id="a")\n    a.doc_md = "text"',
    'd = DAG("a")\nif __name__ == "__main__":\n    d.test()',
    "class_names = [str(x) for x in (1, 2) if x > 1]",
    "@task\ndef f():\n    import sys\n    sys.path.append('x')\n    json.dumps = None\nf()",
    "@task.branch(retries=1)\nasync def f():\n    async with x: await y\nf()",
    "def call():\n    json.dumps = None\nBashOperator(task_id='a', python_callable=call, on_failure_callback=call)",
    "def call():\n    json.dumps = None\nBashOperator.partial(task_id='a', python_callable=call).expand(x=[1])",
    "def call(context, result):\n    context['a'].x = 1\nBashOperator(task_id='a', post_execute=call)",
    "def helper():\n    global json\n@task\ndef f():\n    helper()\nf()",
    "import random\n@task\ndef f():\n    return random.random()\nf()",
    "from random import random as rnd\n@task\ndef f():\n    return rnd()\nf()",
    "try:\n    x = 1\nexcept ValueError:\n    x = 2",
    "async def never_called():\n    await x",
    "def never_called():\n    global json\n    json = 1",
    "import logging\nlog = logging.getLogger(__name__)",
    "import os\nx = os.getenv('A', os.path.join('a', 'b'))",
    "class A(BashOperator):\n    ui_color = 'red'",
    "class A(BashOperator):\n    def __init__(self, x, **more):\n        super().__init__(**more)\n        self.x = x\na = A(x=1)",
    "class A(BashOperator):\n    def execute(self, context):\n        json.dumps = None",
    "class A:\n    @property\n    def x(self):\n        return 1",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import not_loaded_before",
    "assert HEAD is not None\nHEAD = 1",
]  # fmt: skip

NOT_PLAIN = [
    "class A(BashOperator, metaclass=M):\n    pass",
    "class A(json.JSONEncoder):\n    pass",
    "@task\nclass A(BashOperator):\n    pass",
    "class A(BashOperator):\n    json.dumps = None",
    "class A(BashOperator):\n    def __init_subclass__(cls):\n        pass",
    "class A(BashOperator):\n    def __eq__(self, other):\n        return True",
    "class A(BashOperator):\n    __init_subclass__ = BashOperator",
    "class A(BashOperator):\n    def __init__(self):\n        self.__class__.x = 1",
    "class A(BashOperator):\n    def f(self, other):\n        other.x = 1",
    "class A(BashOperator):\n    def f(self):\n        self = DAG\n        self.x = 1",
    "class A(BashOperator):\n    def f(self):\n        for self in [DAG]:\n            self.x = 1",
    "class A(BashOperator):\n    def f(self):\n        def g(self):\n            self.x = 1\n        g(DAG)",
    "class A(BashOperator):\n    def items(self):\n        self.x = 1\nA.items(DAG)",
    "class A(BashOperator):\n    @staticmethod\n    def f(self):\n        self.x = 1",
    "class A(BashOperator):\n    @classmethod\n    def f(cls):\n        cls.x = 1",
    "class A(BashOperator):\n    def f(self):\n        self.dag.x = 1",
    "class A(BashOperator):\n    def f(self):\n        del self.x",
    "class A(BashOperator):\n    @task\n    def f(self):\n        pass\n    def g(self):\n        super(A, self).__init__()",
    "class A:\n    def execute(self):\n        json.dumps = None\nA().execute()",
    "TYPE_CHECKING = True\nif TYPE_CHECKING:\n    json.dumps = None",
    "from typing import TYPE_CHECKING\nTYPE_CHECKING = True\nif TYPE_CHECKING:\n    json.dumps = None",
    "def f(x: json.dumps.clear()):\n    pass\ny = f",
    "import os\nos.environ['A'] = 'b'",
    "import os\nos.environ.update(A='b')",
    "import os\nos.path.join = None",
    "import os\nos.chdir('/')",
    "async def f():\n    await x\ny = f()",
    "def f():\n    global json\n    json = 1\nf()",
    "@task\ndef f(x=json.dumps.clear()):\n    pass",
    "def call():\n    json.dumps = None\ncall()\nBashOperator(task_id='a', python_callable=call)",
    "def call():\n    json.dumps = None\nx = [call]",
    "def task_like(f): return f\n@task_like\ndef g():\n    json.dumps = None",
    "@dag()\ndef flow():\n    json.dumps = None\nflow()",
    "def __getattr__(name):\n    json.dumps = None",
    "import random\nrandom.seed(1)\n@task\ndef f():\n    pass",
    "import logging\nlogging.getLogger('a').setLevel(10)",
    "import logging\nlogging.disable(50)",
    "import not_loaded_before",
    "from xml import sax_that_is_not_loaded",
    "def call():\n    json.dumps = None\ndef run(python_callable):\n    python_callable()\nrun(python_callable=call)",
    "def call():\n    json.dumps = None\nfor f in dict(python_callable=call).values():\n    f()",
    "from random import *",
    "import sys\nsys.path.append('x')",
    "from my_helpers import thing",
    "from . import sibling",
    "from airflow.models import Variable\nVariable.get('x')",
    "from airflow.configuration import conf\nconf.set('a', 'b', 'c')",
    "json.dumps = None",
    "json.decoder.JSONDecoder = None",
    "x = json\nx.dumps = None",
    "f = [json]",
    "BashOperator.template_fields = ()",
    "BashOperator.template_fields.append('x')",
    "x = BashOperator\nx.doc_md = 'poison'",
    "for x in [BashOperator]:\n    x.doc_md = 'poison'",
    "def f(x):\n    x.doc_md = 'poison'\nf(BashOperator)",
    "BashOperator.__init__.__defaults__",
    "BashOperator.__doc__ = ''",
    "del json",
    "setattr(BashOperator, 'x', 1)",
    "exec('1')",
    "eval('1')",
    "open('x').read()",
    "print('x')",
    "globals()['x'] = 1",
    "__builtins__",
    "().__class__",
    "x = {}\nx['a'] = 1",
    "x = 1\nx += 1",
    "import pathlib\npathlib.Path('x').unlink()",
    "try:\n    json.dumps = None\nexcept Exception:\n    pass",
    "while True:\n    pass",
    "with open('x') as f:\n    pass",
    "lambda: (yield)",
    "json = 1",
    "from json import JSONEncoder\nJSONEncoder.default = None",
    "import random\nrandom.seed(1)",
    "(y := json)",
    "from unittest.mock import patch",
    "from airflow.sdk import *",
    "import json as datetime\ndatetime.codecs",
    "import pendulum\npendulum.travel_to(1)",
    "d = DAG('a')\nd.test()",
    "@json.dumps\ndef f():\n    pass",
    "match 1:\n    case 1: pass",
    "assert x",
    "undefined_name",
]


LOADED = {"random": random, "xml": xml}


@pytest.mark.parametrize("source", PLAIN)
def test_an_ordinary_dag_file_is_plain(source: str) -> None:
    assert is_plain(strip(ast.parse(HEAD + source)), LOADED)


@pytest.mark.parametrize("source", NOT_PLAIN)
def test_a_file_that_could_leave_something_behind_is_not_plain(source: str) -> None:
    assert not is_plain(strip(ast.parse(HEAD + source)), LOADED)
