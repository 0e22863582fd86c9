/* What loops know of the machine's caches. */
#ifndef FASTBN_CACHE_H
#define FASTBN_CACHE_H

/* Of a line of the cache. */
enum { LINE_BYTES = 64 };

/* A load waits for a store shortly before it whose address differs by a multiple of that. */
enum { PAGE_BYTES = 4096 };

/* How stores bypass the cache: in turns with what is read for the next group of channels, or line
 * by line with it, where both groups are alike. 0: they do not. */
enum { STREAM_TURNS = 1, STREAM_LINES = 2 };

#endif
