-- The name of this life of the store: ARGV is the one it gets if it has none.
call('SET', LIFE, ARGV[1], 'NX')
return call('GET', LIFE)
