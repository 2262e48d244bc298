/** Writes docs/configuration.md from the schema, so that the document cannot say anything else than the program does. */
import * as schema from './schema.js';

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

function table(settings: schema.Settings): string {
  const rows = Object.values(settings).map(
    ({ key, kind, shown, help }) => `| \`${key}\` | ${cell(help)} | ${cell(kind.allowed)} | ${cell(shown)} |`,
  );
  return ['| key | what it does | allowed | default |', '|---|---|---|---|', ...rows].join('\n');
}

function ports(): string {
  const rows = Object.entries(schema.WELL_KNOWN).map(
    ([name, { type, first, last }]) => `| ${name} | ${type} | ${first === last ? first : `${first}-${last}`} |`,
  );
  rows.push(`| tools | | ${schema.xseg.vtoolStart.default}-${schema.xseg.vtoolEnd.default} |`);
  return ['| role | type | ports |', '|---|---|---|', ...rows].join('\n');
}

/** The whole document, Markdown. */
export function renderDocument(): string {
  return `# Configuration

<!-- Written by scripts/configuration-docs.mjs from src/config/schema.ts: change it there. -->

\`/etc/archipelago/archipelago.conf\`, or the file given by \`-c\`. It is an INI file: \`[SECTION]\` and \`KEY = VALUE\` lines, comments
after \`#\` or \`;\`, a value goes on in lines that are indented. Keys have no case, sections do. Every setting has a default, so the
file may be empty or (the default one only) missing. Files of the original Archipelago are read as they are. A value that is not
allowed stops the program with the file, line, section and key at fault; a key that does not exist is a warning that names the
nearest one that does.

A complete configuration of a node that keeps its data under /srv/archip:

\`\`\`ini
[ARCHIPELAGO]
USER = archipelago
GROUP = archipelago

[blockerb]
archip_dir = /srv/archip/blocks

[blockerm]
archip_dir = /srv/archip/maps
\`\`\`

## [ARCHIPELAGO]

${table(schema.archipelago)}

## [XSEG]

The shared-memory segment that the roles talk through. The rule of thumb for its size is 256 MiB and 64 MiB for each volume that is
busy at the same time; a smaller one works, but requests wait for memory sooner, and \`archipelago start\` says so.

${table(schema.xseg)}

## [PEERS]

${table(schema.peers)}

Example: \`PLACEMENT = nbd vlmcd mapperd blockerb blockerm\` gives each role its own process, \`PLACEMENT =
blockerb+blockerm+mapperd+vlmcd+nbd\` puts all into one. The process with the nbd role holds the connections of the clients: what
shares it takes them along when it dies, what does not is restarted without their noticing more than a pause.

## Roles

Each word of ROLES has a section of that name. Settings of every role:

${table(schema.role)}

These roles need no section for their type and ports. Ports of two roles, or of a role and the tools, must not overlap.

${ports()}

### type = file_blocker

Objects are files. Two roles of a node usually have it: blockerb (blocks) and blockerm (maps).

${table(schema.fileBlocker)}

### type = rados_blocker

Objects are RADOS objects of a Ceph cluster; needs the package librados2 ([rados.md](rados.md)).

${table(schema.radosBlocker)}

### type = mapperd

${table(schema.mapper)}

### type = vlmcd

The composer: cuts requests for volumes into requests for objects.

${table(schema.composer)}

### type = nbd

${table(schema.nbd)}

### type = poold

The port pool of the original's other clients. The settings are read and checked; starting such a role fails, as this version is built
without it.

${table(schema.pool)}
`;
}
