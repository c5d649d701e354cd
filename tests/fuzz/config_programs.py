"""Made-up config files: a grammar guided by types, so that most programs are read to their end.

In the templates `<int>` stands for an expression that is mostly an int, `<any>` for one of any
type, `<items>` for something to walk through, `<list!>` for a variable that holds a list, and
`<new>` for a variable to assign to.
"""

import random
import re

HEAD = "import copy\nimport math\nimport os.path as osp\nfrom copy import deepcopy\n"
HOLE = re.compile(r"<(\w+!?)>")
MAX_DEPTH = 4

# What a type is written as; the first line of each needs no further expression.
VALUES = {
    "int": """0  1  2  -3  7  10  True
        (<int> + <int>)  (<int> - <int>)  (<int> * <int>)  (<int> // <int>)  (<int> % <int>)
        (<int> ** <int>)  (<int> << <int>)  (<int> >> <int>)  (<int> | <int>)  (<int> & <int>)
        (<int> ^ <int>)  -<int>  ~<int>  (<int> if <bool> else <int>)  (<int> or <int>)
        len(<str>)  len(<list>)  len(<dict>)  len(<set>)  len(<bytes>)  sum(<items>)
        max(<int>, <int>)  min(<items>)  max(<items>, key=str)  int(<any>)  int(<float>)
        abs(<int>)  round(<float>)  round(<int>, -1)  math.ceil(<float>)  math.floor(<any>)
        <list>.count(<any>)  <str>.find(<str>)
        <list>[0]  <tuple>[-1]  <bytes>[0]  range(<int>)[-1]  sum(v for v in <items>)""",
    "float": """0.5  1e-3  -2.0  1e308  math.pi  float('inf')  float('nan')
        (<float> + <int>)  (<float> - <float>)  (<int> / <int>)  (<float> // <int>)
        (<float> * <float>)  (<float> % <int>)  (<float> ** <int>)  float(<any>)  float(<str>)
        math.cos(<float>)  math.sqrt(<float>)  math.exp(<float>)  math.log(<int>)
        sum([<float>, <float>, <float>])  round(<float>, 1)  round(<float>, None)  abs(<float>)""",
    "bool": """True  False
        (<any> == <any>)  (<any> != <any>)  (<int> < <int>)  (<any> <= <any>)  (<list> > <list>)
        (<any> in <list>)  (<int> not in <tuple>)  (<str> in <str>)  (<str> in <dict>)
        (<any> in <set>)  (<int> in range(<int>))  (<int> in <bytes>)  (<int> in <items>)
        (<str> in <dict>.keys())  (<any> in <dict>.values())  (<any> in <dict>.items())
        (0 <= <int> < 9)  (<int> < <int> == <any>)  (not <any>)  bool(<any>)  any(<items>)
        all(<items>)  any(<int> > v for v in <items>)  all(v for v in <any>)  (<any> is None)
        (<any> is not True)  (<list> is <list>)  <str>.startswith(<str>)  <str>.isdigit()
        (<any> and <any>)  (<set> < <set>)  (<dict> == <dict>)  (<bool> or 1 / 0)""",
    "str": """''  'a'  'b-c'  '{} {}'  '%s-%d'  'ünï'  '12'  ' x '  '%(k)s'  '\\x00'  '9' * 3
        (<str> + <str>)  (<str> * <int>)  f'<{<name!>}>'  f'{<name!>!r}'  f'{<name!>!a:>9}'
        f'{<int>:03}'  f'{<float>:.2f}'  f'{<name!>!s}{1:{2}}'  <str>.upper()  <str>.title()
        <str>.strip()  <str>.lstrip('a')  <str>.replace('a', 'bb')  <str>.replace('', '-', 2)
        <str>.capitalize()  <str>.removesuffix('a')  '{}/{}'.format(<any>, <str>)
        '{a:>7}{a}'.format(a=<str>)  '{1}{0}'.format(<any>, <any>)  <str>.format(<any>, <any>)
        ('%s' % (<any>,))  ('%s' % <any>)  ('%(k)s' % <dict>)  (<str> % <any>)
        ('%r|%5.1f' % (<any>, <float>))  ('%a%%%03d' % (<str>, <int>))  <str>.join(<list>)
        ','.join(str(v) for v in <items>)  str(<any>)  <str>[0]  <str>[::-1]  <str>[:2]
        <str>.split()[0]  osp.basename(<str>)  osp.dirname(<str>)  osp.join(<str>, <str>)
        osp.splitext(<str>)[1]  <str>.lower()  (<str> or <str>)""",
    "list": """[]  [1]  [1,2,3]  ['a',None]
        [<any>, <any>]  [*<items>, <int>]  [*<any>]  [v for v in <items>]  [v for v in <items> if v]
        [(v, 1) for v in <items>]  [dict(v=v) for v in <items>]
        [(i, v) for i, v in enumerate(<any>)]
        [v + w for v in <items> for w in range(2)]  [[w for w in range(2)] for v in <items>]
        [v for v in <list> if any(v == w for w in <items>)]  list(<items>)  list(<any>)
        sorted(<items>)  sorted(<list>, key=str, reverse=True)  sorted(<dict>, key=len)
        list(reversed(<list>))  list(reversed(<str>))  list(zip(<items>, <items>))
        list(enumerate(<items>, 3))
        (<list> + <list>)  (<list> * <int>)  (<int> * <list>)
        <list>[1:]  <list>[::-1]  <list>[<int>:]
        deepcopy(<list>)  copy.copy(<list>)  <list>.copy()  sum([<list>, <list>], [])
        list(<dict>.keys())  list(<dict>.values())  list(<dict>.items())  <str>.split('a')
        <str>.split()  <str>.rsplit('-', 1)  (<list> or <list>)  [<int>] * 2""",
    "tuple": """()  (1,)  (1,2)  ('a','b')
        (<any>, <any>)  (<any>,)  tuple(<items>)  tuple(v for v in <items> if v)
        (<tuple> + <tuple>)  (<tuple> * <int>)  <tuple>[1:]
        tuple(<dict>.items())  osp.splitext(<str>)
        copy.deepcopy(<tuple>)""",
    "dict": """{}  dict()  dict(k=1)  {'k':'v',1:2}
        dict(type='T', a=<any>)  {<str>: <any>, 'b': <int>}  {<any>: <any>}  {**<dict>, 'c': <any>}
        dict(**{<str>: <any>})  dict(<dict>, d=<any>)  {str(v): v for v in <items>}
        {v: [v] for v in <items>}  dict(zip(<items>, <items>))  dict(enumerate(<items>))
        (<dict> | <dict>)  <dict>.copy()  deepcopy(<dict>)  copy.copy(<dict>)  <dict>.get('k', {})
        dict([(<str>, <any>)])""",
    "set": """{1,2}  set()  {3}
        {<int>, <int>}  {<any>}  set(<items>)  {v for v in <items>}
        (<set> | <set>)  (<set> & <set>)
        (<set> - <set>)  (<set> ^ <set>)  <set>.union(<items>)  <set>.difference(<items>)
        <set>.intersection(<items>, <set>)  <set>.copy()""",
    "bytes": """b''  b'ab'  b'12'
        (<bytes> + <bytes>)  (<bytes> * <int>)  <bytes>[1:]  (b'%d' % <int>)  (b'%s' % <bytes>)""",
    "items": """range(3)  [2,1]  'ab'  (3,)
        <list>  <str>  <dict>  <tuple>  <set>  <bytes>  range(<int>)  range(<int>, <int>, <int>)
        (v for v in <list>)  (v * 2 for v in <items>)  (<any> for v in <items>)  enumerate(<items>)
        zip(<items>, <items>)  reversed(<list>)  <dict>.items()  <dict>.values()""",
}  # fmt: skip
STATEMENTS = """<new> = <any>  <new> = <any>  <new> = <any>  <new> = <list>  <new> = <dict>
    <new> = <name!>  <new>, <new> = <int>, <any>  <new> = <new> = <list>
    <int!> += <int>  <int!> -= <int>  <int!> *= <int>  <int!> |= <int>  <int!> //= <int>
    <int!> **= <int>  <int!> <<= <int>  <int!> ^= <int>  <float!> += <float>  <float!> /= <int>
    <str!> += <str>  <str!> *= <int>  <tuple!> += <tuple>  <tuple!> *= <int>  <list!> *= <int>
    <name!> += <any>
    <list!> += <items>  <list!> += <list!>  <list!>[0] += <any>  <dict!>['k'] += <any>
    <dict!> |= <dict>  <set!> |= <set>  <set!> -= <set>  <str!> %= <any>
    <list!>.append(<any>)  <list!>.append(<name!>)
    <list!>.insert(<int>, <any>)  <list!>.extend(<items>)
    <list!>.pop()  <list!>.pop(0)  <list!>.reverse()  <list!>.sort()  <list!>.sort(key=str)
    <list!>.remove(<any>)  <list!>.clear()  <list!>[0] = <any>  <list!>[1:] = <items>
    <list!>[::2] = <list>  del <list!>[0]  del <list!>[::2]
    <dict!>.update(<dict>)  <dict!>.update(k=<any>)  <dict!>.setdefault(<str>, <any>)
    <dict!>.pop('k', None)  <dict!>.clear()  <dict!>[<str>] = <any>
    <dict!>[<any>] = <name!>  del <dict!>['k']  <dict!>.setdefault('n', []).append(<any>)
    <set!>.add(<any>)  <set!>.update(<items>)  <set!>.discard(1)  <any>
    <new>: int = <any>  <new> = <hostile>"""
HOSTILE = """().__class__.__bases__[0].__subclasses__()  __import__('os').system('id')
    open('/etc/passwd').read()  eval('1')  exec('x = 1')  getattr(copy, 'sys')  copy.__dict__
    copy.copyreg  math.__loader__  osp.os.system('id')  osp.genericpath.os.listdir('.')  print(1)
    '{0.__class__}'.format(1)  '{a[0]}'.format(a=[1])  (lambda: 1)()  dict(type=len)  globals()
    breakpoint()  deepcopy.__globals__  f'{copy.__spec__}'  10**10**10  [0]*10**12  <list>.__class__
    list(range(10**12))  <str>.format_map(<dict>)  <dict>.__init__(a=1)  <any>.real  <str>.encode()
    type(<any>)  vars()  (x:=<any>)  [*<any>].__len__()  <list>.__iadd__(<list>)  copy.error
    input()  compile('1','','eval')  max(<list>,key=eval)  sorted(<list>,key=print)"""


def alternatives(text: str) -> list[str]:
    """The templates of a block; two spaces or a line end stand between them."""
    return [each.strip() for each in re.split(r"\s*\n\s*|  +", text) if each.strip()]


CHOICES = {kind: alternatives(text) for kind, text in VALUES.items()}
LEAVES = {kind: alternatives(text.split("\n")[0]) for kind, text in VALUES.items()}
KINDS = [kind for kind in VALUES if kind != "items"]
ATTACKS = alternatives(HOSTILE)
LINES = alternatives(STATEMENTS)


class Programs:
    """The program of a seed, always the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names: dict[str, str] = {}  # variable -> type

    def program(self) -> str:
        """A whole file."""
        lines = [self._block("") for _ in range(self._random.randint(1, 6))]
        return HEAD + "\n".join(lines) + "\n"

    def _block(self, indent: str) -> str:
        pick = self._random.random()
        if pick < 0.85 or len(indent) > 4:
            kind = self._random.choice(KINDS)
            chosen = self._statement().replace("<any>", f"<{kind}>", 1)
            return indent + self._fill(chosen, 0, kind)
        before = dict(self._names)
        if pick < 0.92:
            test = self._fill("<bool>", 1)
            body = self._block(indent + "    ")
            self._names = dict(before)  # either branch may be left out
            other = self._random.choice(["", f"\n{indent}else:\n{self._block(indent + '    ')}"])
            text = f"{indent}if {test}:\n{body}{other}"
        else:
            head = self._fill("for <new> in <items>", 1, "int")
            text = f"{indent}{head}:\n{self._block(indent + '    ')}"
        self._names = before
        return text

    def _statement(self) -> str:
        """A statement whose variables there are; rarely a hostile one."""
        kinds = {"name", *self._names.values()} if self._names else set()
        while True:
            chosen = self._random.choice(LINES)
            if set(re.findall(r"<(\w+)!>", chosen)) <= kinds:
                return chosen

    def _fill(self, template: str, depth: int, kind: str = "int") -> str:
        """The template with its holes filled; names that it assigns get the type `kind`."""
        made: list[str] = []

        def one(match: re.Match[str]) -> str:
            hole = match[1]
            if hole == "new":
                made.append(f"{self._random.choice('abcdefgh')}{self._random.randint(0, 1)}")
                return made[-1]
            if hole.endswith("!"):
                known = [n for n, k in self._names.items() if hole == "name!" or k == hole[:-1]]
                return self._random.choice(known or list(self._names) or ["a0"])
            if hole == "hostile":
                return self._fill(self._random.choice(ATTACKS), depth + 1)
            if hole == "any" or self._random.random() < 0.02:
                hole = self._random.choice(KINDS)
            known = [name for name, each in self._names.items() if each == hole]
            if known and self._random.random() < 0.4:
                return self._random.choice(known)
            table = LEAVES if depth >= MAX_DEPTH or self._random.random() < 0.3 else CHOICES
            return self._fill(self._random.choice(table[hole]), depth + 1)

        text = HOLE.sub(one, template)
        self._names.update(dict.fromkeys(made, kind))
        return text
