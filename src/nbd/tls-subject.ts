/** Names of certificates as text that rules can be written for. */

/**
 * A distinguished name in the form of RFC 4514, most specific part first: `CN=alice,O=Example`. Characters with a meaning are escaped by
 * a backslash, so that a part cannot pass for two.
 * @param lines as X509Certificate.subject tells it: a line for each part, in the certificate's order, values escaped as RFC 2253 says
 */
export function distinguishedName(lines: string | undefined): string {
  if (!lines) return '';
  // A plus sign with blanks around it joins two values of one part; within a value it is escaped.
  const parts = lines.split('\n').map((part) => part.replaceAll(' + ', '+'));
  return parts.reverse().join(',');
}
