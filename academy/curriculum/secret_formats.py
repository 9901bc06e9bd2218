# ruff: noqa: E501  a pattern is read in one piece
"""The key formats of providers, and places that hold a password: addresses, headers, command lines, login files.

Each row has the literals of which a text must contain one, so a text without secrets costs little. Patterns have no
upper limit on a token's length, because providers make their tokens longer over time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from academy.curriculum.secret_values import is_placeholder, is_words

_FORMATS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("private key", ("PRIVATE KEY",), r"-{4,5} ?BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)? ?-{4,5}(?!\s{0,9}(?:\.{3}|…|<|\[)|[\"'`.,;:)]{0,3} {1,3}[a-z]{1,12} )(?:[^-]*+(?:-(?!-{3,4} ?(?:BEGIN|END) [A-Z0-9 ]{0,60}PRIVATE KEY)[^-]*+)*+-{4,5} ?END [A-Z0-9 ]{0,60}PRIVATE KEY(?: BLOCK)? ?-{4,5}|(?=\s{0,9}(?:[\w-]{1,40}: .{0,800}?\s)?[A-Za-z0-9+/=]{16}).*)"),
    ("private key", ("LS0tLS1CRUdJTi",), r"LS0tLS1CRUdJTi(?!BDRVJUSUZJ|BQVUJMSUMg|BQR1AgU0lH|BUUlVTVEVE)[\w+/=-]{20,}(?:\s+[\w+/-]{40,}={0,2})*"),
    ("private key", ("AGE-SECRET-KEY-",), r"AGE-SECRET-KEY-1[0-9A-Z]{40,}"),
    ("private key", ("Private-Lines:",), r"Private-Lines: \d+(?:\s+[A-Za-z0-9+/=]+)+"),
    ("private key", ("PrivateKey", "PresharedKey"), r"(?:PrivateKey|PresharedKey)\s*=\s*[A-Za-z0-9+/]{42,44}=?"),
    ("AWS key", ("AKIA", "ASIA", "ABIA", "ACCA", "A3T", "ABSK", "bedrock-api-key-"), r"\b(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}\b|\bABSK[A-Za-z0-9+/]{80,}={0,2}|\bbedrock-api-key-[A-Za-z0-9+/=]{16,}"),
    ("Google key", ("AIza", "ya29.", "GOCSPX-", "1//0"), r"\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}|\b1//0[\w-]{30,}"),
    ("Azure key", ("AccountKey=", "SharedAccessKey=", "SharedAccessSignature", "Q~"), r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{20,}={0,2}|SharedAccessSignature[ =][^\s\"']{20,}|(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}"),
    ("signed address", ("sig=", "-Signature=", "-Token="), r"[?&]sig=[A-Za-z0-9%+/=_-]{30,}|\bX-(?:Amz|Goog)-(?:Signature|Security-Token)=[\w%+/=-]{30,}"),
    ("cloud key", ("LTAI", "AKID", "AQVN", "t1."), r"\bLTAI[A-Za-z0-9]{12,}\b|\bAKID[A-Za-z0-9]{28,}|\bAQVN[\w-]{30,}|\bt1\.[A-Z0-9a-z_-]{20,}\.[\w-]{60,}"),
    ("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), r"(?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_)[\w.-]*\w(?<=[\w.-]{30})"),
    ("GitLab token", ("glpat-", "gldt-", "glrt", "glptt-", "glcbt-", "glimt-", "glft-", "glsoat-", "glagent-", "gloas-", "glffct-", "GR1348941", "_gitlab_session="), r"\bgl(?:pat|dt|rtr?|ptt|cbt|imt|ft|soat|agent|oas|ffct)-[\w.-]{18,}|\bGR1348941[\w-]{20}|_gitlab_session=\w{20,}"),
    ("Atlassian token", ("ATATT", "ATBB", "ATCTT"), r"\bAT(?:ATT|BB|CTT)[A-Za-z0-9_=-]{20,}"),
    ("Slack token", ("xox", "xapp-", "XOX"), r"(?i:\bxox[a-z](?:\.xox[a-z])?)-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{20,}"),
    ("webhook", ("hooks", "webhook", "/triggers/"), r"https?://(?:[\w.-]{0,100}hooks?[\w.-]{0,100}\.[a-z]{2,20}|[\w.-]{1,200})(?::\d{1,5})?/(?:services|workflows|api/webhooks|webhook|webhooks|webhookb2|hooks?|triggers?)/[\w/@=+.-]{16,}"),
    ("Discord token", (".",), r"\b[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}"),
    ("Telegram token", (":AA",), r"\b\d{8,10}:AA[\w-]{32,33}"),
    ("Stripe key", ("k_live_", "k_test_", "k_prod_", "whsec_"), r"(?<![A-Za-z0-9])[spr]k_(?:live|test|prod)_\w{10,}|\bwhsec_[A-Za-z0-9+/=]{24,}"),
    ("payment key", ("sq0", "access_token$", "shp", "EZ", "rzp_", "EAAA", "FLWSECK"), r"\bsq0[a-z]{3}-[\w-]{22,}|access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}|\bshp(?:at|ss|ca|pa)_[a-fA-F0-9]{32}|\bEZ[AT]K[A-Za-z0-9]{54}|\brzp_(?:live|test)_\w{14,}|\bEAAA[\w-]{50,}|\bFLWSECK(?:_TEST)?-\w{12,}(?:-X)?"),
    ("Twilio key", ("SK", "AC"), r"\b(?:SK|AC)[0-9a-fA-F]{32}\b"),
    ("mail key", ("SG.", "key-", "-us", "xkeysib-", "xsmtpsib-", "re_"), r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\bkey-[0-9a-z]{32}\b|\b[0-9a-f]{32}-us\d{1,2}\b|\bx(?:key|smtp)sib-[0-9a-f]{64}-\w{16}|\bre_[A-Za-z0-9]{8}_\w{20,}"),
    ("model key", ("sk-", "sk_", "hf_", "api_org_", "r8_", "gsk_", "pplx-", "xai-", "nvapi-", "tgp_v1_", "fw_", "jina_", "tvly-", "pcsk_"), r"(?<![A-Za-z0-9])(?:sk-[\w-]{20,}|sk_[0-9a-f]{40,}|hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{30,}|r8_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{30,}|pplx-[A-Za-z0-9]{30,}|xai-[A-Za-z0-9]{40,}|nvapi-[\w-]{40,}|tgp_v1_[\w-]{30,}|fw_[A-Za-z0-9]{20,}|jina_\w{40,}|tvly-[\w-]{20,}|pcsk_\w{30,})"),
    ("registry token", ("npm_", "pypi-", "rubygems_", "dckr_", "cio", "oy2", "CLOJARS_"), r"(?<![A-Za-z0-9])(?:npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|rubygems_[0-9a-f]{40,}|dckr_[a-z]{3}_[\w-]{20,}|cio[A-Za-z0-9]{32}\b|oy2[a-z0-9]{43}|CLOJARS_[0-9a-f]{50,})"),
    ("cloud token", ("_v1_", "dapi", "hvs.", "hvb.", "hvr.", "tskey-", "sbp_", "sb_secret_", "pscale_", "dp.", "FlyV1", "fo1_", "fm1", "fm2_", "HRKU-", "pul-", "ops_eyJ", "v1.0-", "CCIPAT_"), r"\bdo[opr]_v1_[0-9a-f]{40,}|\bdapi[0-9a-f]{32}|\bhv[sbr]\.[\w-]{24,}|\btskey-[\w-]{20,}|\bsbp_[0-9a-f]{40}|\bsb_secret_[\w-]{20,}|\bpscale_\w+_[\w.=-]{30,}|\bdp\.(?:pt|st|ct|sa|scim|audit)\.[\w.]{30,}|FlyV1 \S{20,}|\bfo1_[\w-]{40,}|\bfm(?:1[ar]|2)_[\w+/=-]{80,}|\bHRKU-[\w-]{30,}|\bpul-[0-9a-f]{40}|\bops_eyJ[\w+/=-]{50,}|\bv1\.0-[0-9a-f]{24}-[0-9a-f]{100,}|\bCCIPAT_\w{20,}"),
    ("cloud token", ("atlasv1",), r"\w{14}\.atlasv1\.[\w=-]{40,}"),
    ("service token", ("glsa_", "glc_", "lin_", "ntn_", "figd_", "sntry", "NRAK-", "NRJS-", "NRII-", "NRRA-", "PMAK-", "CFPAT-", "dt0", "AKCp", "cmVmdGtu", "rdme_", "sgp_", "LSDK", "lsv2_", "shippo_", "duffel_", "fio-u-", "sha256~", "_mmk", "tk-us-", "pnu_", "pnb_", "ico-", "4b1d", "s-s4t2"), r"\bgls?[ac]_[\w+/=-]{30,}|\blin_(?:api|oauth)_\w{30,}|\bntn_[A-Za-z0-9]{40,}|\bfigd_[\w-]{30,}|\bsntry[su]_[\w=/+-]{30,}|\bNR(?:AK|JS|II|RA)-[\w-]{19,}|\bPMAK-[0-9a-f-]{40,}|\bCFPAT-[\w-]{40,}|\bdt0\w\d\d\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{60,}|\b(?:AKCp|cmVmdGtu)[A-Za-z0-9]{50,}|\brdme_[a-z0-9]{50,}|\bsgp_(?:\w{16}_|local_)?[0-9a-fA-F]{40}|\blsv2_(?:pt|sk)_\w{30,}|\bshippo_(?:live|test)_[0-9a-fA-F]{40}|\bduffel_(?:live|test)_[\w=-]{40,}|\bfio-u-[\w=-]{60,}|\bsha256~[\w-]{40,}|\b\w{6}_\w{29}_mmk\b|\btk-us-[\w-]{40,}|\bpn[ub]_[A-Za-z0-9]{30,}|\bico-[A-Za-z0-9]{32}|\b4b1d[A-Za-z0-9]{38}|\bs-s4t2(?:ud|af)-[0-9a-f]{64}"),
    ("service token", ("pat", "sat."), r"\bpat[A-Za-z0-9]{14}\.[0-9a-f]{50,}|\bpat-(?:na|eu)\d-[0-9a-fA-F-]{36}|\b[ps]at\.[\w-]{22}\.[0-9a-zA-Z]{24}\.\w{20}"),
    ("service token", ("EAA",), r"\bEAA[A-Za-z0-9]{50,}"),
    ("service token", ("sl.",), r"\bsl\.(?:u\.)?[\w-]{100,}"),
    ("service token", ("secret_",), r"\bsecret_[A-Za-z0-9]{40,}"),
    ("service token", ("API-",), r"\bAPI-[A-Z0-9]{25,}"),
    ("service token", ("sdk-",), r"\bsdk-[0-9a-f]{8}-[0-9a-f-]{27}"),
    ("service token", ("p8",), r"\bp8e?-[a-z0-9-]{32}"),
    ("service token", ("A3-",), r"\bA3-[A-Z0-9]{6}-(?:[A-Z0-9]{5,6}-?){4,5}"),
    ("service token", ("sm_", "sc_", "_acc", "scauth_"), r"\bs[mc]_(?:aat|pat|sat|ext)_\w{16,}|\b(?:sc|ext|scauth)_[a-z0-9]{5,}_[a-z0-9-]{3,}_acc[a-z0-9_-]{0,40}[._][\w+/=-]{30,}"),
    ("JSON web token", ("eyJ",), r"(?<![\w-])eyJ[\w-]{8,}(?:\.[\w-]*){1,4}(?<=[\w-]{4})"),
    ("JSON web token", ("ZXlK",), r"(?<![A-Za-z0-9])ZXlK[\w+/=-]{60,}"),
    ("password in an address", ("@tcp(", "@unix(", "@udp(", "sqlplus"), r"\b[\w.-]{1,40}:(?P<value>[^\s:@\"']{4,100})@(?:tcp|unix|udp)\(|\bsqlplus\b[^\n]{0,40}?\s[\w.]{1,40}/[\"']?(?P<other>[^\s@\"']{4,100})[\"']?@"),
    ("authorization header", ("uthorization", "AUTHORIZATION", "earer ", "BEARER "), r"(?i:\b(?:proxy-)?authorization\b[\"']{0,8}\s{0,9}[:=,]\s{0,9}[\"']{0,8}(?:(?:basic|bearer|token|digest|apikey|api-key|negotiate|splunk|key)[\s:=]{1,9})?|\bbearer\s{1,9})(?P<value>[\w.~+/=:-]{12,})"),
    ("password hash", ("$2", "$6$", "$5$", "$1$", "$apr1$", "$argon2", "$y$", "$scrypt$", "pbkdf2_", "{SSHA", "{SHA"), r"\$(?:2[aby]|[156y]|apr1|scrypt|argon2(?:id?|d))\$[^\s:\"']{20,}|pbkdf2_sha\d+\$\d+\$\S{20,}|\{S?SHA(?:256|512)?\}[A-Za-z0-9+/=]{20,}"),
    ("login file", ("machine ", "login ", "default "), r"\b(?:machine\s+\S+|default)\s+login\s+\S+\s+password\s+(?P<value>\S+)"),
    ("login file", (":",), r"(?m:^[+ ]?[\w.*-]+:(?:\d{2,5}|\*):[\w*-]+:[\w*-]+:(?P<value>[^\s:]{4,})$)"),
    ("login file", ("requirepass", "masterauth"), r"\b(?:requirepass|masterauth)\s+[\"']?(?P<value>[^\s\"']{4,})"),
    ("command line password", ("ConvertTo-SecureString",), r"ConvertTo-SecureString\s{1,9}(?:-String\s{1,9})?[\"'](?P<value>[^\s\"'$]{4,200})[\"']"),
    ("password", ("psk",), r"\b(?:wpa[_-])?psk[\"']?\s{0,3}[=:]\s{0,3}[\"']?(?=[!-~]{0,60}\d)(?P<value>[^\s\"'\[\]]{8,64})"),
    ("password", ("密码", "密碼", "口令", "パスワード", "비밀번호", "암호"), r"(?:密码|密碼|口令|パスワード|비밀번호|암호)\s{0,3}(?:[:：=]|是|为|は|는)\s{0,3}[\"'`「]?(?=[!-~]{0,60}\d)(?P<value>[^\s\"'`」\[\]，。、]{4,200})"),
    ("seed phrase", ("phrase", "mnemonic", "seed", "wallet"), r"(?i:\b(?:seed|recovery|backup|mnemonic|wallet)\b[^\n]{0,40}?[:=\"'\s])(?P<value>(?:[a-z]{3,8}[ ,]{1,20}){11}(?:[a-z]{3,8}[ ,]{1,20}){0,12}[a-z]{3,8})"),
    ("wallet key", ("0x",), r"\b0x[0-9a-fA-F]{64}\b"),
    ("docker login", ('"auth"', '""auth""'), r"\"{1,8}auth\"{1,8}\s*:\s*\"{1,8}(?P<value>[A-Za-z0-9+/=]{12,})\""),
    ("basic login", ("curl", "wget", "http"), r"(?:\s-u|--user|--proxy-user|--basic|\s-U)[ =]{0,3}(?:\"(?P<value>[^\s:\"]{1,60}:[^\"\n]{3,200})\"|'(?P<single>[^\s:']{1,60}:[^'\n]{3,200})'|(?P<other>[^\s:'\"]{1,60}:[^\s'\"]{3,200}))"),
    ("command line password", ("-p", "--pass", "sshpass", "-a ", "-w "), r"(?:\bsshpass\s+-p\s*|\b(?:mysql|mysqldump|mysqladmin|mariadb)\b[^\n|;]{0,200}?\s-p|\bredis-cli\b[^\n|;]{0,200}?\s-a\s+|\bldap\w+\b[^\n|;]{0,200}?\s-w\s+)['\"]?(?P<value>[^\s'\"-][^\s'\"]{3,})"),
)  # fmt: skip
_COMPILED = tuple((kind, words, re.compile(pattern, re.DOTALL)) for kind, words, pattern in _FORMATS)
_MANIFEST = re.compile(r"(?m:^(?P<indent>[ \t]*)[\"']?(?:data|stringData)[\"']?:[ \t]*+\{?+[ \t]*+$)")
_ENTRY = re.compile(r"[ \t]+[\"']?[\w.-]+[\"']?:[ \t]*[\"']?(?P<value>[^\s\"',{}|>]{6,})")
_ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}://[^\s/:@\"'<>?#]{0,80}:(?=(?P<rest>[^\s<>]{4,400}))")
_ADDRESS_END = re.compile(r"(?<![\"'`])[\"'`]++(?=[\s,)\]}:;]|$)")
_ADDRESS_HOST = re.compile(
    r"(?!sha\d{3}:)(?:\w[\w.-]*+|\[[0-9a-fA-F:]+\]|\$?\{+[\w.]+\}+|\$\w+)(?=[:/?#\"'`,;)\]}\\&|]|\.?$)"
)
_COOKIES = re.compile(r"(?i:\b(?:set-)?cookies?\b[\"']{0,8}\s{0,9}[:=,]\s{0,9}[\"']{0,8})(?P<pairs>[^\n\"']{8,})")
_PAIR = re.compile(r"[\w.-]{1,60}=(?P<value>(?=[^;\s]{0,60}\d)[^;\s]{12,})")


def by_format(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind and range of each secret that its format or its place shows."""
    for kind, words, pattern in _COMPILED:
        if any(word in text for word in words):
            for match in pattern.finditer(text):
                group = match.lastgroup if pattern.groupindex and match.lastgroup else 0
                start, end = match.span(group)
                value = text[start:end]
                if kind == "basic login":
                    value = value.partition(":")[2]
                    start = end - len(value)
                if not (group and (is_placeholder(value) or is_words(value))) and "XXXX" not in value:
                    yield kind, start, end
    if "://" in text:
        yield from _addresses(text)
    if "ookie" in text or "OOKIE" in text:
        for header in _COOKIES.finditer(text):
            for pair in _PAIR.finditer(text, *header.span("pairs")):
                if not is_placeholder(pair["value"]):
                    yield "cookie", *pair.span("value")
    if "Secret" in text and "ata" in text:
        yield from _manifest(text)


def _addresses(text: str) -> Iterator[tuple[str, int, int]]:
    """Passwords in addresses. A password may contain `/`, `@` and quotes, so the host decides where it ends."""
    for match in _ADDRESS.finditer(text):
        rest = match["rest"]
        if (end := _ADDRESS_END.search(rest)) is not None:
            rest = rest[: end.start()]
        if re.match(r"\d{1,5}[/?#]", rest):
            continue  # a port
        length, at = 0, rest.find("@")
        while at >= 0:
            if (host := _ADDRESS_HOST.match(rest, at + 1)) is not None:
                length = at
                if "." in host[0] or host[0] == "localhost" or re.match(r":\d", rest[host.end() :]):
                    break
            at = rest.find("@", at + 1)
        if length >= 3 and not is_placeholder(rest[:length]):
            yield "password in an address", match.end(), match.end() + length


def _manifest(text: str) -> Iterator[tuple[str, int, int]]:
    """The entries below `data:` of a Kubernetes secret."""
    if not re.search(r"kind[\"']?:[ \t]*[\"']?Secret\b", text):
        return
    for block in _MANIFEST.finditer(text):
        at = block.end() + 1
        while (entry := _ENTRY.match(text, at)) and len(entry[0]) > len(block["indent"]):
            if not is_placeholder(entry["value"]):
                yield "key", entry.start("value"), entry.end("value")
            at = text.find("\n", entry.end()) + 1
            if not at:
                return
