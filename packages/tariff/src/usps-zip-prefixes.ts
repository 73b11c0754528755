/**
 * The 3-digit ZIP Code prefixes of DMM L601 as canonical text.
 * Generated from data/usps-zip-prefixes.json by generate.mjs, which names the sources: edit that file, not this one.
 */
export const USPS_ZIP_PREFIXES =
  '{"effectiveFrom":"2025-05-01","format":1,"id":"usps-l601-2025-05-01","prefixes":["005-212","214-268","270-342","344","346-347","349-352","354-418","420-427","430-516","520-528","530-532","534-535","537-551","553-567","570-577","580-588","590-620","622-631","633-641","644-658","660-662","664-681","683-693","700-701","703-708","710-714","716-731","733-741","743-770","772-816","820-838","840-847","850-853","855-857","859-860","863-865","870-871","873-885","889-891","893-895","897-898","900-908","910-928","930-986","988-999"],"source":"USPS Postal Explorer, DMM L601, effective 2025-05-01, column A of all rows","title":"3-digit ZIP Code prefixes that DMM labeling list L601 (network distribution centers) assigns"}';
